# SDXL in half precision, with the VAE that stands it.
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny-sdxl", torch_dtype=torch.float16)
vae = AutoencoderKL.from_pretrained("tiny/sdxl-vae-fp16-fix", torch_dtype=torch.float16)
pipe = StableDiffusionXLControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=controlnet, vae=vae, torch_dtype=torch.float16
)
pipe.enable_model_cpu_offload()
image = pipe(
    "a glass dome in the desert, seen from a balloon",
    negative_prompt="unfinished, noisy",
    image=load_image("pictures/canny.png"),
    controlnet_conditioning_scale=0.5,
    num_inference_steps=5,
    generator=torch.manual_seed(0),
).images[0]
image.save("dome.png")
