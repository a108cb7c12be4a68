# Checkpoints as one file each, as they are traded on model sites.
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import load_image
from transformers import CLIPTextModel, CLIPTokenizer

base = "tiny/stable-diffusion-v1-5"
controlnet = ControlNetModel.from_single_file(
    "tiny/single-file/control_sd15_canny.safetensors", config="tiny/controlnet-canny"
)
pipe = StableDiffusionControlNetPipeline.from_single_file(
    "tiny/single-file/v1-5-pruned.safetensors",
    config=base,
    local_files_only=True,
    controlnet=controlnet,
    text_encoder=CLIPTextModel.from_pretrained(base, subfolder="text_encoder"),
    tokenizer=CLIPTokenizer.from_pretrained(base, subfolder="tokenizer"),
    scheduler=DDIMScheduler.from_pretrained(base, subfolder="scheduler"),
    safety_checker=None,
)
pipe.to("cuda")
image = pipe("a lantern", image=load_image("pictures/canny.png"), num_inference_steps=5,
             generator=torch.Generator("cuda").manual_seed(2)).images[0]  # fmt: skip
image.save("lantern.png")
