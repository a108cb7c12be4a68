# Draw, then draw over it: the second pipeline is made of the first one's models.
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    UniPCMultistepScheduler,
)
from diffusers.utils import load_image

depth = load_image("pictures/depth.png")
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-depth"),
    safety_checker=None,
)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.to("cuda")
sketch = pipe("a village", image=depth, num_inference_steps=4, generator=torch.Generator("cuda").manual_seed(1)).images

refine = StableDiffusionControlNetImg2ImgPipeline.from_pipe(pipe)
image = refine(
    "a village, detailed",
    image=sketch[0],
    control_image=depth,
    strength=0.6,
    num_inference_steps=7,
    generator=torch.Generator("cuda").manual_seed(1),
).images[0]
image.save("village.png")
