"""Guess mode: the edges alone say what to draw, without words."""

import argparse

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("edges")
parser.add_argument("output")
parser.add_argument("--prompt", default="")
parser.add_argument("--steps", type=int, default=10)
args = parser.parse_args()

controlnet = ControlNetModel.from_pretrained(args.model, subfolder="controlnet")
pipe = StableDiffusionControlNetPipeline.from_pretrained(args.model, controlnet=controlnet)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)

image = pipe(
    args.prompt,
    image=load_image(args.edges),
    guess_mode=True,
    guidance_scale=5.0,
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(4),
).images[0]
image.save(args.output)
