# In the manner of the ControlNet 1.1 model cards and guides (diffusers 0.27): lists of scales and of windows, guess
# mode, an inpainting control whose masked pixels are -1, the old ``callback``.
import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image


def make_inpaint_condition(image, image_mask):
    image = np.array(image.convert("RGB")).astype(np.float32) / 255.0
    image_mask = np.array(image_mask.convert("L")).astype(np.float32) / 255.0
    assert image.shape[0:1] == image_mask.shape[0:1], "image and image_mask must have the same image size"
    image[image_mask > 0.5] = -1.0  # set as masked pixel
    return torch.from_numpy(np.expand_dims(image, 0).transpose(0, 3, 1, 2))


controlnet = [
    ControlNetModel.from_pretrained("tiny/controlnet-canny", torch_dtype=torch.float32),
    ControlNetModel.from_pretrained("tiny/controlnet-depth", torch_dtype=torch.float32),
]
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, safety_checker=None, torch_dtype=torch.float32
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.enable_xformers_memory_efficient_attention()
pipe.enable_model_cpu_offload()

images = [make_inpaint_condition(load_image("pictures/house.png"), load_image("pictures/mask.png")),
          load_image("pictures/depth.png")]  # fmt: skip
seen = []
for name, options in dict(
    both=dict(controlnet_conditioning_scale=[1.0, 0.8]),
    weaker=dict(controlnet_conditioning_scale=[0.5, 0.8]),
    second_off=dict(controlnet_conditioning_scale=[1.0, 0.0]),
    in_turn=dict(controlnet_conditioning_scale=[1.0, 0.8], control_guidance_start=[0.0, 0.5],
                 control_guidance_end=[0.5, 1.0]),
    guessed=dict(controlnet_conditioning_scale=[1.0, 1.0], guess_mode=True, guidance_scale=3.0),
).items():  # fmt: skip
    image = pipe(
        "" if name == "guessed" else "a giant standing in a fantasy landscape, best quality",
        images,
        num_inference_steps=4,
        generator=torch.manual_seed(0),
        negative_prompt="monochrome, lowres, bad anatomy, worst quality, low quality",
        callback=lambda step, timestep, latents: seen.append((step, float(latents.std()))),
        callback_steps=2,
        **options,
    ).images[0]
    image.save(f"{name}.png")
assert len(seen) == 10 and all(spread > 0 for _, spread in seen)
