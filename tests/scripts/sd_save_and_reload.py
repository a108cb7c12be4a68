# The pipeline with a fused LoRA, saved as one folder and loaded from it.
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

canny = load_image("pictures/canny.png")
call = dict(prompt="a steam engine", image=canny, num_inference_steps=4)
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny"),
    safety_checker=None,
).to("cuda")
pipe.load_lora_weights("tiny/ink-lora", weight_name="pytorch_lora_weights.safetensors")
pipe.fuse_lora()
pipe.unload_lora_weights()
pipe(**call, generator=torch.manual_seed(0)).images[0].save("before.png")
pipe.save_pretrained("my-pipeline")
del pipe

pipe = DiffusionPipeline.from_pretrained("my-pipeline", torch_dtype=torch.float32).to("cuda")
pipe(**call, generator=torch.manual_seed(0)).images[0].save("after.png")
