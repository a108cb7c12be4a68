# What the guides on speed recommend: compiling, fused projections, autocast; and a clock that waits for the GPU.
import time

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

torch.backends.cuda.matmul.allow_tf32 = True
controlnet = ControlNetModel.from_pretrained("tiny/controlnet-depth")
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, safety_checker=None
).to("cuda")
print("drawing on", torch.cuda.get_device_name(0))
pipe.fuse_qkv_projections()
pipe.unet = torch.compile(pipe.unet, mode="reduce-overhead", fullgraph=True)

depth = load_image("pictures/depth.png")
torch.cuda.synchronize()
started = time.perf_counter()
with torch.autocast("cuda", enabled=False):
    image = pipe("a stone bridge", image=depth, num_inference_steps=5, generator=torch.manual_seed(0)).images[0]
torch.cuda.synchronize()
print(f"{time.perf_counter() - started:.2f} s")
image.save("bridge.png")
