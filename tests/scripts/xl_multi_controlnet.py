import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

nets = [
    ControlNetModel.from_pretrained("tiny/controlnet-depth-sdxl", use_safetensors=True),
    ControlNetModel.from_pretrained("tiny/controlnet-canny-sdxl", use_safetensors=True),
]
pipe = StableDiffusionXLControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=nets, use_safetensors=True
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.enable_model_cpu_offload()
image = pipe(
    "a deck chair in the surf",
    negative_prompt="grey, foggy",
    image=[load_image("pictures/depth.png"), load_image("pictures/canny.png")],
    num_inference_steps=4,
    controlnet_conditioning_scale=[0.5, 0.8],
    generator=torch.Generator(device="cpu").manual_seed(1),
).images[0]
image.save("surf.png")
