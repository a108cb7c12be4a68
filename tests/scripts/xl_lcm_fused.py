import torch
from diffusers import ControlNetModel, LCMScheduler, StableDiffusionXLControlNetPipeline
from diffusers.utils import load_image

pipe = StableDiffusionXLControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny-sdxl"),
).to("cuda", dtype=torch.float32)
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
pipe.load_lora_weights("tiny/lcm-lora-sdxl", adapter_name="lcm")
pipe.load_lora_weights("tiny/pixel-lora-sdxl", adapter_name="pixel")
pipe.set_adapters(["lcm", "pixel"], [1.0, 0.8])
pipe.fuse_lora(adapter_names=["lcm", "pixel"], lora_scale=0.9)
image = pipe("a pixel garden", image=load_image("pictures/canny.png"), num_inference_steps=4, guidance_scale=1.5,
             generator=torch.manual_seed(0)).images[0]  # fmt: skip
image.save("garden.png")
