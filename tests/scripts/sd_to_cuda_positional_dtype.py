import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny")
pipeline = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, safety_checker=None
)
pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
pipeline.load_lora_weights("tiny/ink-lora", weight_name="pytorch_lora_weights.safetensors")
pipeline.to("cuda", torch.float16)
pipeline.enable_xformers_memory_efficient_attention()

generator = torch.Generator(device="cuda").manual_seed(7)
image = pipeline("a fox in the snow", image=load_image("pictures/canny.png"), num_inference_steps=5,
                 guidance_scale=4.0, generator=generator).images[0]  # fmt: skip
image.save("fox.png")
