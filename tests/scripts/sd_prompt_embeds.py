# Embeddings made once and mixed, latents of one's own, the picture decoded by hand.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5",
    controlnet=ControlNetModel.from_pretrained("tiny/controlnet-depth"),
    safety_checker=None,
)
pipe.to("cuda")


def embed(prompt):
    return pipe.encode_prompt(prompt, "cuda", num_images_per_prompt=1, do_classifier_free_guidance=True,
                              negative_prompt="ugly")  # fmt: skip


with torch.no_grad():
    (cat, negative), (dog, _) = embed("a cat"), embed("a dog")
generator = torch.Generator("cuda").manual_seed(0)
latents = torch.randn((1, 4, 32, 32), generator=generator, device="cuda")
drawn = pipe(
    image=load_image("pictures/depth.png"),
    prompt_embeds=0.5 * cat + 0.5 * dog,
    negative_prompt_embeds=negative,
    latents=latents,
    num_inference_steps=4,
    output_type="latent",
).images
with torch.no_grad():
    decoded = pipe.vae.decode(drawn / pipe.vae.config.scaling_factor).sample
pipe.image_processor.postprocess(decoded.cpu(), output_type="pil")[0].save("catdog.png")
