# One net for many kinds of control.
import torch
from diffusers import ControlNetUnionModel, StableDiffusionXLControlNetUnionPipeline
from diffusers.utils import load_image

controlnet = ControlNetUnionModel.from_pretrained("tiny/controlnet-union-sdxl")
pipe = StableDiffusionXLControlNetUnionPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=controlnet
).to("cuda")
for mode, kind in ((3, "canny"), (1, "depth")):
    image = pipe(
        "a cup of coffee",
        control_image=[load_image(f"pictures/{kind}.png")],
        control_mode=[mode],
        num_inference_steps=4,
        generator=torch.Generator("cuda").manual_seed(0),
    ).images[0]
    image.save(f"coffee-{kind}.png")
