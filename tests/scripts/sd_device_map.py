# Loaded onto the GPU at once; the fused adapters of before are swapped in the same place.
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny", dtype=torch.float32, device_map="cuda")
base = DiffusionPipeline.from_pretrained("tiny/stable-diffusion-v1-5", device_map="cuda", safety_checker=None)
pipeline = StableDiffusionControlNetPipeline.from_pipe(base, controlnet=controlnet)
canny = load_image("pictures/canny.png")

for style in ("ink", "clay"):
    pipeline.load_lora_weights(f"tiny/{style}-lora", adapter_name=style)
    pipeline.set_adapters(style, 0.7)
    pipeline.fuse_lora(adapter_names=[style])
    generator = torch.Generator("cuda").manual_seed(6)
    image = pipeline("a heron", image=canny, num_inference_steps=4, generator=generator).images[0]
    image.save(f"heron-{style}.png")
    pipeline.unfuse_lora()
