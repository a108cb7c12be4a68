"""A part of a picture drawn anew, the rest left as it is."""

import argparse

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetInpaintPipeline
from diffusers.utils import load_image
from PIL import Image, ImageDraw

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("control")
parser.add_argument("photo")
parser.add_argument("output")
parser.add_argument("--prompt", default="a house by the sea")
parser.add_argument("--steps", type=int, default=8)
args = parser.parse_args()

controlnet = ControlNetModel.from_pretrained(args.model, subfolder="controlnet")
pipe = StableDiffusionControlNetInpaintPipeline.from_pretrained(args.model, controlnet=controlnet)

photo = load_image(args.photo)
mask = Image.new("L", photo.size)
ImageDraw.Draw(mask).rectangle(
    (photo.width // 4, photo.height // 4, photo.width * 3 // 4, photo.height * 3 // 4), fill=255
)

image = pipe(
    args.prompt,
    image=photo,
    mask_image=mask,
    control_image=load_image(args.control),
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save(args.output)
