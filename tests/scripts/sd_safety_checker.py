# As the checkpoint comes: with its safety checker.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny")
pipe = StableDiffusionControlNetPipeline.from_pretrained("tiny/stable-diffusion-v1-5", controlnet=controlnet)
pipe.enable_model_cpu_offload()
output = pipe("a chess board", image=load_image("pictures/canny.png"), num_inference_steps=4,
              generator=torch.manual_seed(0))  # fmt: skip
print(output.nsfw_content_detected)
output.images[0].save("chess.png")
