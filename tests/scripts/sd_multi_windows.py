# Two nets that take turns.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

nets = [ControlNetModel.from_pretrained(f"tiny/controlnet-{kind}") for kind in ("canny", "depth")]
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=nets, safety_checker=None
).to("cuda")
image = pipe(
    "an old library",
    image=[load_image("pictures/canny.png"), load_image("pictures/depth.png")],
    num_inference_steps=6,
    controlnet_conditioning_scale=[0.7, 1.2],
    control_guidance_start=[0.0, 0.4],
    control_guidance_end=[0.6, 1.0],
    guess_mode=True,
    generator=torch.Generator("cuda").manual_seed(12),
).images[0]
image.save("library.png")
