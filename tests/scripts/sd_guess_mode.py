# No prompt: the net has to guess what the edges show.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny", use_safetensors=True)
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, use_safetensors=True, safety_checker=None
).to("cuda")
image = pipe(
    "",
    image=load_image("pictures/canny.png"),
    guess_mode=True,
    guidance_scale=3.0,
    num_inference_steps=5,
    generator=torch.manual_seed(0),
).images[0]
image.save("guessed.png")
