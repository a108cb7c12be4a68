import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-depth")
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, safety_checker=None
)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe = pipe.to("cuda")

image = pipe(
    "a bowl of lemons on a wooden table",
    negative_prompt="low quality",
    image=load_image("pictures/depth.png"),
    num_inference_steps=5,
    eta=0.5,
    generator=torch.Generator("cuda").manual_seed(33),
).images[0]
image.save("lemons.png")
