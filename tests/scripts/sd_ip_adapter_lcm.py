# IP-Adapter, LCM LoRA and ControlNet together.
import torch
from diffusers import ControlNetModel, LCMScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny", dtype=torch.float16)
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, dtype=torch.float16, safety_checker=None
)
pipe.load_ip_adapter("tiny/ip-adapter", subfolder="models", weight_name="ip-adapter_sd15.bin")
pipe.load_lora_weights("tiny/lcm-lora-sdv1-5")
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
pipe.set_ip_adapter_scale(0.4)
pipe.enable_model_cpu_offload()

image = pipe(
    "a girl in a garden",
    image=load_image("pictures/canny.png"),
    ip_adapter_image=load_image("pictures/style.png"),
    num_inference_steps=4,
    guidance_scale=1.5,
    generator=torch.Generator(device="cpu").manual_seed(10),
).images[0]
image.save("garden.png")
