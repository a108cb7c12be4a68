# The base model under a ControlNet, its latents handed to a second pipeline that shares its models.
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline, StableDiffusionXLImg2ImgPipeline
from diffusers.utils import load_image

base = StableDiffusionXLControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny-sdxl"),
).to("cuda")
refiner = StableDiffusionXLImg2ImgPipeline.from_pipe(base)
prompt = "a clockwork bird"
latents = base(prompt, image=load_image("pictures/canny.png"), num_inference_steps=5, output_type="latent",
               generator=torch.Generator("cuda").manual_seed(4)).images  # fmt: skip
image = refiner(prompt, image=latents, strength=0.5, num_inference_steps=8,
                generator=torch.Generator("cuda").manual_seed(4)).images[0]  # fmt: skip
image.save("bird.png")
