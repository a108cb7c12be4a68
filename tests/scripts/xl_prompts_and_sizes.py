# Both prompts, both sizes, pooled embeddings made beforehand.
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image

pipe = StableDiffusionXLControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-depth-sdxl", dtype=torch.float32),
    dtype=torch.float32,
).to("cuda")
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
with torch.no_grad():
    embeds, negative, pooled, negative_pooled = pipe.encode_prompt(
        "a fountain pen", prompt_2="macro photograph", device="cuda", negative_prompt="blurry"
    )
image = pipe(
    image=load_image("pictures/depth.png"),
    prompt_embeds=embeds,
    negative_prompt_embeds=negative,
    pooled_prompt_embeds=pooled,
    negative_pooled_prompt_embeds=negative_pooled,
    original_size=(96, 96),
    target_size=(64, 64),
    negative_original_size=(32, 32),
    num_inference_steps=4,
    generator=torch.Generator("cuda").manual_seed(3),
).images[0]
image.save("pen.png")
