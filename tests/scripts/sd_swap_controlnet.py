# The same base model under one net after the other; the old one is freed.
import gc

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny"),
    safety_checker=None,
).to("cuda")
for kind in ("canny", "depth"):
    if kind == "depth":
        pipe.controlnet = ControlNetModel.from_pretrained("tiny/controlnet-depth").to("cuda")
        gc.collect()
        torch.cuda.empty_cache()
    torch.cuda.manual_seed(0)
    generator = torch.Generator("cuda").manual_seed(14)
    image = pipe("a violin", image=load_image(f"pictures/{kind}.png"), num_inference_steps=4,
                 generator=generator).images[0]  # fmt: skip
    image.save(f"violin-{kind}.png")
