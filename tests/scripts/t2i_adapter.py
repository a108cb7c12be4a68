import torch
from diffusers import StableDiffusionAdapterPipeline, T2IAdapter
from diffusers.utils import load_image

adapter = T2IAdapter.from_pretrained("tiny/t2iadapter-canny", torch_dtype=torch.float32)
pipe = StableDiffusionAdapterPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-4", adapter=adapter, torch_dtype=torch.float32, safety_checker=None
)
pipe.to("cuda")
generator = torch.Generator("cuda").manual_seed(0)
image = pipe("a pirate ship", image=load_image("pictures/canny.png"), num_inference_steps=5,
             adapter_conditioning_scale=0.9, generator=generator).images[0]  # fmt: skip
image.save("ship.png")
