# A distilled model's LoRA beside a style, and the TCD scheduler with its own parameter.
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline, TCDScheduler
from diffusers.utils import load_image

device = "cuda"
controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny-sdxl", torch_dtype=torch.float16).to(device)
pipe = StableDiffusionXLControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=controlnet, variant="fp16", torch_dtype=torch.float16
).to(device)
pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
pipe.load_lora_weights("tiny/lcm-lora-sdxl", adapter_name="fast")
pipe.load_lora_weights("tiny/pixel-lora-sdxl", adapter_name="pixel")
pipe.set_adapters(["fast", "pixel"], adapter_weights=[1.0, 0.6])
image = pipe(
    "pixel art of a knight",
    image=load_image("pictures/canny.png"),
    num_inference_steps=4,
    guidance_scale=1.5,
    eta=0.3,
    controlnet_conditioning_scale=0.7,
    generator=torch.Generator(device=device).manual_seed(0),
).images[0]
image.save("knight.png")
