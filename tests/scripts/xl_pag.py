# Perturbed-attention guidance beside the usual one.
import torch
from diffusers import AutoPipelineForText2Image, ControlNetModel
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny-sdxl")
pipeline = AutoPipelineForText2Image.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=controlnet, enable_pag=True, pag_applied_layers=["mid", "up"]
)
pipeline.enable_model_cpu_offload()
for pag_scale in (2.0, 20.0):
    image = pipeline(
        "a hummingbird",
        image=load_image("pictures/canny.png"),
        num_inference_steps=4,
        guidance_scale=5.0,
        pag_scale=pag_scale,
        generator=torch.manual_seed(0),
    ).images[0]
    image.save(f"hummingbird-{pag_scale}.png")
