# Device and precision in variables, models moved one by one, the old `.cuda()` and `.half()`.
import torch
from diffusers import AutoencoderKL, ControlNetModel, EulerAncestralDiscreteScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

device = "cuda:0"
dtype = torch.float16
controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny").to(device, dtype=dtype)
vae = AutoencoderKL.from_pretrained("tiny/stable-diffusion-v1-5", subfolder="vae").half().cuda()
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, vae=vae, dtype=dtype, safety_checker=None
).to(torch.device(device))
pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)

generator = torch.Generator(device).manual_seed(5)
image = pipe("watercolour of a harbour", image=load_image("pictures/canny.png"), num_inference_steps=6,
             generator=generator).images[0]  # fmt: skip
image.save("harbour.png")
