"""A picture drawn anew under its own edge map."""

import argparse

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline
from diffusers.utils import load_image

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("edges")
parser.add_argument("photo")
parser.add_argument("output")
parser.add_argument("--prompt", default="a white star on a green background")
parser.add_argument("--steps", type=int, default=10)
args = parser.parse_args()

controlnet = ControlNetModel.from_pretrained(args.model, subfolder="controlnet")
pipe = StableDiffusionControlNetImg2ImgPipeline.from_pretrained(args.model, controlnet=controlnet)

image = pipe(
    args.prompt,
    image=load_image(args.photo),
    control_image=load_image(args.edges),
    strength=0.8,
    guidance_scale=3.0,
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save(args.output)
