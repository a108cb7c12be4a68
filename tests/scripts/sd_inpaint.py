# The masked part drawn anew under the edges of the whole.
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetInpaintPipeline
from diffusers.utils import load_image

init_image = load_image("pictures/house.png").resize((64, 64))
mask_image = load_image("pictures/mask.png").resize((64, 64))
control_image = load_image("pictures/canny.png")

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny", torch_dtype=torch.float16)
pipe = StableDiffusionControlNetInpaintPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, torch_dtype=torch.float16, safety_checker=None
)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.enable_model_cpu_offload()

image = pipe(
    "a blue door",
    num_inference_steps=5,
    generator=torch.Generator(device="cpu").manual_seed(1),
    eta=1.0,
    image=init_image,
    mask_image=mask_image,
    control_image=control_image,
).images[0]
image.save("door.png")
