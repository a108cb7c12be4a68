# Edges and depth, each with its weight.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

nets = [
    ControlNetModel.from_pretrained("tiny/controlnet-canny", torch_dtype=torch.float16),
    ControlNetModel.from_pretrained("tiny/controlnet-depth", torch_dtype=torch.float16),
]
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=nets, torch_dtype=torch.float16, safety_checker=None
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.enable_xformers_memory_efficient_attention()
pipe.enable_model_cpu_offload()

image = pipe(
    "two elms and a gate",
    [load_image("pictures/canny.png"), load_image("pictures/depth.png")],
    num_inference_steps=5,
    generator=torch.Generator(device="cpu").manual_seed(1),
    negative_prompt="fog",
    controlnet_conditioning_scale=[1.0, 0.8],
).images[0]
image.save("elms.png")
