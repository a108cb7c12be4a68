import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image, ControlNetModel
from diffusers.utils import load_image, make_image_grid

controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny")
text2image = AutoPipelineForText2Image.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, safety_checker=None
).to("cuda")
image2image = AutoPipelineForImage2Image.from_pipe(text2image)
canny = load_image("pictures/canny.png")

first = text2image("a tea house", image=canny, num_inference_steps=4, generator=torch.manual_seed(0)).images[0]
second = image2image("a tea house at night", image=first, control_image=canny, strength=0.8, num_inference_steps=6,
                     generator=torch.manual_seed(0)).images[0]  # fmt: skip
make_image_grid([first, second], rows=1, cols=2).save("tea-houses.png")
