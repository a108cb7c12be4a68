# Everything that is recommended against running out of memory, at once.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny", torch_dtype=torch.float32),
    torch_dtype=torch.float32,
    safety_checker=None,
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.enable_attention_slicing()
pipe.vae.enable_slicing()
pipe.vae.enable_tiling()
pipe.unet.to(memory_format=torch.channels_last)
pipe.controlnet.to(memory_format=torch.channels_last)
pipe.enable_model_cpu_offload()

images = pipe(
    "a red bicycle",
    image=load_image("pictures/canny.png"),
    num_inference_steps=4,
    num_images_per_prompt=2,
    generator=torch.Generator(device="cpu").manual_seed(1),
).images
print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
for i, image in enumerate(images):
    image.save(f"bicycle-{i}.png")
