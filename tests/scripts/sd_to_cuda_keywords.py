import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

pipeline = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-depth"),
    safety_checker=None,
)
pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
pipeline.to(device="cuda", dtype=torch.float32)
print("on", pipeline.device.type, "in", pipeline.unet.dtype)

images = pipeline(
    "isometric drawing of a small castle",
    image=load_image("pictures/depth.png"),
    num_inference_steps=6,
    num_images_per_prompt=2,
    controlnet_conditioning_scale=0.8,
    generator=torch.Generator(device="cuda").manual_seed(11),
).images
for i, image in enumerate(images):
    image.save(f"castle_{i}.png")
