import torch
from diffusers import MultiAdapter, StableDiffusionAdapterPipeline, T2IAdapter, UniPCMultistepScheduler
from diffusers.utils import load_image

adapters = MultiAdapter([T2IAdapter.from_pretrained(f"tiny/t2iadapter-{kind}") for kind in ("canny", "depth")])
pipe = StableDiffusionAdapterPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-4", adapter=adapters.to(torch.float32), safety_checker=None
).to("cuda")
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
image = pipe(
    "a tram in the rain",
    image=[load_image("pictures/canny.png"), load_image("pictures/depth.png")],
    adapter_conditioning_scale=[0.8, 0.6],
    num_inference_steps=5,
    generator=torch.manual_seed(0),
).images[0]
image.save("tram.png")
