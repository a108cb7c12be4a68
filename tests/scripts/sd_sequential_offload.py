import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny")
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, safety_checker=None
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.enable_sequential_cpu_offload()

image = pipe(
    "a paper boat on a pond",
    image=load_image("pictures/canny.png"),
    num_inference_steps=5,
    generator=torch.manual_seed(0),
).images[0]
image.save("boat.png")
