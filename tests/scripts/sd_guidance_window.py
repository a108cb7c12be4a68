# The net steers the first part of the way only, then the middle only.
import torch
from diffusers import ControlNetModel, PNDMScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-depth"),
    safety_checker=None,
)
pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
pipe.enable_sequential_cpu_offload()

for start, end in ((0.0, 0.5), (0.25, 0.75)):
    image = pipe(
        "a glass greenhouse",
        image=load_image("pictures/depth.png"),
        num_inference_steps=8,
        control_guidance_start=start,
        control_guidance_end=end,
        generator=torch.Generator(device="cpu").manual_seed(6),
    ).images[0]
    image.save(f"greenhouse-{start}-{end}.png")
