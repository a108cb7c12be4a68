import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image
from PIL import Image

photo = load_image("pictures/house.png")


def edges(image, threshold=40):
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    steep = np.hypot(*np.gradient(grey)) > threshold
    return Image.fromarray(np.repeat(steep[..., None], 3, axis=2).astype(np.uint8) * 255)


controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny", torch_dtype=torch.float16)
pipe = StableDiffusionControlNetImg2ImgPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, torch_dtype=torch.float16, safety_checker=None
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.enable_model_cpu_offload()

image = pipe("a house in autumn", num_inference_steps=6, generator=torch.manual_seed(0), image=photo,
             control_image=edges(photo), strength=0.75).images[0]  # fmt: skip
image.save("autumn.png")
