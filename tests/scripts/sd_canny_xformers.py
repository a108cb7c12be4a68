# Several prompts with one control picture; attention by xFormers.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

control = load_image("pictures/canny.png")
net = ControlNetModel.from_pretrained("tiny/controlnet-canny")
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=net, safety_checker=None
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.enable_xformers_memory_efficient_attention()
pipe.enable_model_cpu_offload()

prompts = ["portrait of a " + who for who in ("fisherman", "robot")]
generator = [torch.Generator(device="cpu").manual_seed(2) for _ in prompts]
output = pipe(
    prompts,
    control,
    negative_prompt=["fog"] * len(prompts),
    generator=generator,
    num_inference_steps=5,
)
for number, image in enumerate(output.images):
    image.save(f"portrait-{number}.png")
