import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-depth-sdxl")
pipe = StableDiffusionXLControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=controlnet
).to("cuda")
pipe.load_ip_adapter("tiny/ip-adapter", subfolder="sdxl_models", weight_name="ip-adapter_sdxl.bin")
pipe.set_ip_adapter_scale(0.5)

embeds = pipe.prepare_ip_adapter_image_embeds(
    ip_adapter_image=load_image("pictures/style.png"),
    ip_adapter_image_embeds=None,
    device="cuda",
    num_images_per_prompt=1,
    do_classifier_free_guidance=True,
)
image = pipe("a statue", image=load_image("pictures/depth.png"), ip_adapter_image_embeds=embeds,
             num_inference_steps=4, generator=torch.Generator("cuda").manual_seed(5)).images[0]  # fmt: skip
image.save("statue.png")
