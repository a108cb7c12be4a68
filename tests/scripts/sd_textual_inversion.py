import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny"),
    safety_checker=None,
).to("cuda")
pipe.scheduler = DPMSolverMultistepScheduler.from_config(
    pipe.scheduler.config, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True
)
pipe.load_textual_inversion("tiny/cat-toy", token="<cat-toy>")

image = pipe(
    "a <cat-toy> on a bookshelf",
    image=load_image("pictures/canny.png"),
    num_inference_steps=5,
    generator=torch.Generator("cuda").manual_seed(8),
).images[0]
image.save("cat-toy.png")
