# One LoRA for speed, one for the style; then the style alone, weaker.
import torch
from diffusers import ControlNetModel, LCMScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-depth")
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, safety_checker=None
)
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
pipe.enable_model_cpu_offload()
pipe.load_lora_weights("tiny/lcm-lora-sdv1-5", adapter_name="lcm")
pipe.load_lora_weights("tiny/ink-lora", weight_name="pytorch_lora_weights.safetensors", adapter_name="ink")

depth = load_image("pictures/depth.png")
for name, adapters, weights in (("both", ["lcm", "ink"], [1.0, 0.8]), ("ink", ["ink"], [0.4])):
    pipe.set_adapters(adapters, adapter_weights=weights)
    image = pipe("a mountain monastery", image=depth, num_inference_steps=4, guidance_scale=1.8,
                 generator=torch.manual_seed(0)).images[0]  # fmt: skip
    image.save(f"monastery-{name}.png")
