import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLAdapterPipeline, T2IAdapter
from diffusers.utils import load_image

adapter = T2IAdapter.from_pretrained("tiny/t2iadapter-canny-sdxl").to("cuda")
pipe = StableDiffusionXLAdapterPipeline.from_pretrained("tiny/stable-diffusion-xl-base-1.0", adapter=adapter)
pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
pipe.to("cuda")
pipe.enable_xformers_memory_efficient_attention()
image = pipe(
    "a mosaic of a dolphin",
    negative_prompt="photograph",
    image=load_image("pictures/canny.png"),
    num_inference_steps=5,
    guidance_scale=5.0,
    adapter_conditioning_scale=0.8,
    adapter_conditioning_factor=0.8,
    generator=torch.manual_seed(0),
).images[0]
image.save("dolphin.png")
