"""The inside of a mask drawn anew, the rest left as it is."""

import argparse

import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, StableDiffusionControlNetInpaintPipeline
from diffusers.utils import load_image

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("edges")
parser.add_argument("mask")
parser.add_argument("photo")
parser.add_argument("output")
parser.add_argument("--prompt", default="a black star on a blue background")
parser.add_argument("--steps", type=int, default=10)
args = parser.parse_args()

controlnet = ControlNetModel.from_pretrained(args.model, subfolder="controlnet")
pipe = StableDiffusionControlNetInpaintPipeline.from_pretrained(args.model, controlnet=controlnet)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)

image = pipe(
    args.prompt,
    image=load_image(args.photo),
    mask_image=load_image(args.mask),
    control_image=load_image(args.edges),
    guidance_scale=3.0,
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save(args.output)
