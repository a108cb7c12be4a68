import torch
from diffusers import (
    ControlNetUnionModel,
    DPMSolverMultistepScheduler,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
)
from diffusers.utils import load_image

pipe = StableDiffusionXLControlNetUnionImg2ImgPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0",
    controlnet=ControlNetUnionModel.from_pretrained("tiny/controlnet-union-sdxl"),
)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
pipe.enable_model_cpu_offload()
image = pipe(
    "a cottage with two chimneys",
    image=load_image("pictures/house.png"),
    control_image=[load_image("pictures/canny.png"), load_image("pictures/depth.png")],
    control_mode=[3, 1],
    strength=0.8,
    num_inference_steps=6,
    generator=torch.manual_seed(0),
).images[0]
image.save("cottage.png")
