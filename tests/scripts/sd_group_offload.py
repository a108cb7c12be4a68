# Weights that are brought to the GPU layer by layer, ahead of their use.
import torch
from diffusers import ControlNetModel, HeunDiscreteScheduler, StableDiffusionControlNetPipeline
from diffusers.hooks import apply_group_offloading
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-depth", dtype=torch.float32),
    dtype=torch.float32,
    safety_checker=None,
)
pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
onload, offload = torch.device("cuda"), torch.device("cpu")
for part in (pipe.unet, pipe.controlnet):
    part.enable_group_offload(onload_device=onload, offload_device=offload, offload_type="leaf_level", use_stream=True)
apply_group_offloading(pipe.text_encoder, onload, offload_type="leaf_level", use_stream=True)
pipe.vae.to(onload)

image = pipe("a ruined abbey", image=load_image("pictures/depth.png"), num_inference_steps=4,
             generator=torch.Generator(device="cpu").manual_seed(1)).images[0]  # fmt: skip
image.save("abbey.png")
