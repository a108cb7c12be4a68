"""Two ControlNets together: edges at first, filled shapes to the end."""

import argparse

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("edges")
parser.add_argument("mask")
parser.add_argument("output")
parser.add_argument("--prompt", default="an orange star on a purple background")
parser.add_argument("--steps", type=int, default=10)
args = parser.parse_args()

controlnets = [ControlNetModel.from_pretrained(args.model, subfolder=s) for s in ("controlnet", "controlnet_masks")]
pipe = StableDiffusionControlNetPipeline.from_pretrained(args.model, controlnet=controlnets)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)

image = pipe(
    args.prompt,
    image=[load_image(args.edges), load_image(args.mask)],
    controlnet_conditioning_scale=[0.6, 0.6],
    control_guidance_end=[0.7, 1.0],
    guidance_scale=3.0,
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save(args.output)
