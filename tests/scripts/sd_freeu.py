import torch
from diffusers import ControlNetModel, EulerDiscreteScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny"),
    safety_checker=None,
).to("cuda")
pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
canny = load_image("pictures/canny.png")


def draw(name):
    generator = torch.Generator("cuda").manual_seed(21)
    pipe("a snowy village", image=canny, num_inference_steps=4, generator=generator).images[0].save(name)


draw("plain.png")
pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
draw("free.png")
