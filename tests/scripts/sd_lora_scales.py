# How strong a LoRA is, in the call; and without it.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-canny"),
    safety_checker=None,
)
pipe.to("cuda")
pipe.load_lora_weights("tiny/clay-lora", weight_name="pytorch_lora_weights.safetensors")
canny = load_image("pictures/canny.png")

for scale in (0.3, 0.9):
    image = pipe(
        "a clay dragon",
        image=canny,
        num_inference_steps=4,
        cross_attention_kwargs={"scale": scale},
        generator=torch.Generator(device="cuda").manual_seed(3),
    ).images[0]
    image.save(f"dragon-{scale}.png")

pipe.unload_lora_weights()
generator = torch.Generator(device="cuda").manual_seed(3)
pipe("a clay dragon", image=canny, num_inference_steps=4, generator=generator).images[0].save("dragon-none.png")
