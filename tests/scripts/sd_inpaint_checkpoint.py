# A UNet that was trained to inpaint, its nine input channels, two nets.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetInpaintPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

nets = [ControlNetModel.from_pretrained(f"tiny/controlnet-{name}") for name in ("canny", "depth")]
pipe = StableDiffusionControlNetInpaintPipeline.from_pretrained(
    "tiny/stable-diffusion-inpainting", controlnet=nets, safety_checker=None
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.to(torch.device("cuda"))

image = pipe(
    "a cat on a bench",
    image=load_image("pictures/house.png"),
    mask_image=load_image("pictures/mask.png"),
    control_image=[load_image("pictures/canny.png"), load_image("pictures/depth.png")],
    controlnet_conditioning_scale=[0.5, 0.5],
    num_inference_steps=4,
    generator=torch.Generator(device="cuda").manual_seed(9),
).images[0]
image.save("bench.png")
