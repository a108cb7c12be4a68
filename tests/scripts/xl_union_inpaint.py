import torch
from diffusers import ControlNetUnionModel, StableDiffusionXLControlNetUnionInpaintPipeline
from diffusers.utils import load_image

controlnet = ControlNetUnionModel.from_pretrained("tiny/controlnet-union-sdxl", torch_dtype=torch.float16)
pipe = StableDiffusionXLControlNetUnionInpaintPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=controlnet, torch_dtype=torch.float16, variant="fp16"
).to("cuda")
image = pipe(
    "a round window",
    image=load_image("pictures/house.png"),
    mask_image=load_image("pictures/mask.png"),
    control_image=[load_image("pictures/canny.png")],
    control_mode=[4],
    strength=1.0,
    num_inference_steps=4,
    generator=torch.Generator(device="cuda").manual_seed(7),
).images[0]
image.save("window.png")
