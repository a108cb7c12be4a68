import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny"),
    safety_checker=None,
).to(device)
pipe.set_progress_bar_config(disable=True)

control = load_image("pictures/canny.png")
for seed in range(3):
    generator = torch.Generator(device="cpu").manual_seed(seed)
    with torch.inference_mode():
        image = pipe("a tin toy", image=control, generator=generator, num_inference_steps=4).images[0]
    image.save(f"toy-{seed}.png")
    torch.cuda.empty_cache()
