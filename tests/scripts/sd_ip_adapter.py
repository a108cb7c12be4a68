# A depth map for the composition, a picture for the style.
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image
from transformers import CLIPVisionModelWithProjection

image_encoder = CLIPVisionModelWithProjection.from_pretrained("tiny/ip-adapter", subfolder="models/image_encoder")
controlnet = ControlNetModel.from_pretrained("tiny/controlnet-depth")
pipeline = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, image_encoder=image_encoder, safety_checker=None
).to("cuda")
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
pipeline.load_ip_adapter("tiny/ip-adapter", subfolder="models", weight_name="ip-adapter_sd15.bin")

for scale in (0.6, {"down": 0.2, "up": {"block_0": [0.0, 0.9]}}):
    pipeline.set_ip_adapter_scale(scale)
    image = pipeline(
        prompt="a chapel on a hill",
        image=load_image("pictures/depth.png"),
        ip_adapter_image=load_image("pictures/style.png"),
        negative_prompt="grey",
        num_inference_steps=5,
        generator=torch.Generator(device="cpu").manual_seed(33),
    ).images[0]
    image.save(f"styled-{'blocks' if isinstance(scale, dict) else scale}.png")
