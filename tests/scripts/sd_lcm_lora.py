# Four steps with the LCM LoRA.
import torch
from diffusers import ControlNetModel, LCMScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

canny_image = load_image("pictures/canny.png").resize((64, 64))
controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny", torch_dtype=torch.float16)
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, torch_dtype=torch.float16, safety_checker=None
).to("cuda")
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
pipe.load_lora_weights("tiny/lcm-lora-sdv1-5")

image = pipe(
    "an owl, studio light",
    image=canny_image,
    num_inference_steps=4,
    guidance_scale=1.5,
    controlnet_conditioning_scale=0.8,
    cross_attention_kwargs={"scale": 1},
    generator=torch.manual_seed(0),
).images[0]
image.save("owl.png")
