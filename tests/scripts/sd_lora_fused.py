import torch
from diffusers import ControlNetModel, LCMScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny"),
    safety_checker=None,
).to("cuda")
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
pipe.load_lora_weights("tiny/lcm-lora-sdv1-5", adapter_name="lcm")
pipe.fuse_lora(lora_scale=0.7)
pipe.unload_lora_weights()

image = pipe(
    "a jar of honey",
    image=load_image("pictures/canny.png"),
    num_inference_steps=4,
    guidance_scale=2.0,
    generator=torch.Generator("cuda").manual_seed(4),
).images[0]
image.save("honey.png")
