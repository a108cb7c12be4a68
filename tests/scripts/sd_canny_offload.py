# A picture that follows an edge map, on a small GPU: half precision, a fast solver, one model on the GPU at a time.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

canny_image = load_image("pictures/canny.png")

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny", torch_dtype=torch.float16)
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, torch_dtype=torch.float16, safety_checker=None
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.enable_model_cpu_offload()

generator = torch.manual_seed(0)
image = pipe("a lighthouse at dusk", num_inference_steps=6, generator=generator, image=canny_image).images[0]
image.save("lighthouse.png")
