import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionXLControlNetInpaintPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny-sdxl")
pipe = StableDiffusionXLControlNetInpaintPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=controlnet
)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.enable_sequential_cpu_offload()
image = pipe(
    "a stack of hats",
    image=load_image("pictures/house.png"),
    mask_image=load_image("pictures/mask.png"),
    control_image=load_image("pictures/canny.png"),
    strength=0.99,
    num_inference_steps=5,
    eta=1.0,
    generator=torch.Generator(device="cpu").manual_seed(1),
).images[0]
image.save("hats.png")
