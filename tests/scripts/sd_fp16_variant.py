import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-depth", variant="fp16", torch_dtype=torch.float16)
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=controlnet,
    variant="fp16",
    torch_dtype=torch.float16,
    use_safetensors=True,
    safety_checker=None,
).to("cuda")
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.enable_xformers_memory_efficient_attention()
image = pipe(
    "a harbour crane",
    image=load_image("pictures/depth.png"),
    num_inference_steps=5,
    generator=torch.Generator(device="cuda").manual_seed(17),
).images[0]
image.save("crane.png")
