# A callback that ends classifier-free guidance after 60 % of the steps, and keeps the latents on the way.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny"),
    safety_checker=None,
).to("cuda")
kept = []


def end_guidance(pipe, step, timestep, tensors):
    kept.append(tensors["latents"].abs().mean().item())
    if step == int(pipe.num_timesteps * 0.6):
        pipe._guidance_scale = 0.0
        tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
        tensors["image"] = tensors["image"].chunk(2)[-1]
    return tensors


image = pipe(
    "a windmill",
    image=load_image("pictures/canny.png"),
    num_inference_steps=5,
    generator=torch.Generator(device="cuda").manual_seed(1),
    callback_on_step_end=end_guidance,
    callback_on_step_end_tensor_inputs=["latents", "prompt_embeds", "image"],
).images[0]
image.save("windmill.png")
print(kept)
