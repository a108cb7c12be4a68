# One set of models, two pipelines.
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
)
from diffusers.utils import load_image

canny = load_image("pictures/canny.png")
text2img = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny"),
    safety_checker=None,
    requires_safety_checker=False,
).to("cuda")
inpaint = StableDiffusionControlNetInpaintPipeline(**text2img.components, requires_safety_checker=False)

drawn = text2img("a shop front", image=canny, num_inference_steps=4, generator=torch.manual_seed(0)).images[0]
drawn.save("shop.png")
mask = load_image("pictures/mask.png")
blurred = inpaint.mask_processor.blur(mask, blur_factor=3)
image = inpaint("a neon sign", image=drawn, mask_image=blurred, control_image=canny, strength=0.9,
                num_inference_steps=5, generator=torch.manual_seed(0)).images[0]  # fmt: skip
image.save("sign.png")
