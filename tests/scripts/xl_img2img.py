import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLControlNetImg2ImgPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-depth-sdxl", variant="fp16", dtype=torch.float16)
vae = AutoencoderKL.from_pretrained("tiny/sdxl-vae-fp16-fix", dtype=torch.float16)
pipe = StableDiffusionXLControlNetImg2ImgPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=controlnet, vae=vae, variant="fp16", dtype=torch.float16
)
pipe.enable_model_cpu_offload()
images = pipe(
    "a robot reading a newspaper",
    image=load_image("pictures/house.png").resize((64, 64)),
    control_image=load_image("pictures/depth.png"),
    strength=0.9,
    num_inference_steps=5,
    controlnet_conditioning_scale=0.6,
    generator=torch.manual_seed(0),
).images
images[0].save("robot.png")
