# In the manner of kohya-ss/sd-scripts (diffusers 0.25.0, without peft): a network of LoRA modules that take the forward
# of the layers they belong to, weighed anew for every picture, then merged; and diffusers' own loader of such a file.
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline
from diffusers.utils import load_image
from safetensors.torch import load_file, save_file


class LoRAModule(torch.nn.Module):
    def __init__(self, lora_name, org_module, multiplier=1.0, lora_dim=4, alpha=1):
        super().__init__()
        self.lora_name, self.lora_dim, self.multiplier = lora_name, lora_dim, multiplier
        if org_module.__class__.__name__ in ("Conv2d", "LoRACompatibleConv"):
            options = dict(kernel_size=org_module.kernel_size, stride=org_module.stride, padding=org_module.padding)
            self.lora_down = torch.nn.Conv2d(org_module.in_channels, lora_dim, bias=False, **options)
            self.lora_up = torch.nn.Conv2d(lora_dim, org_module.out_channels, (1, 1), (1, 1), bias=False)
        else:
            self.lora_down = torch.nn.Linear(org_module.in_features, lora_dim, bias=False)
            self.lora_up = torch.nn.Linear(lora_dim, org_module.out_features, bias=False)
        if type(alpha) is torch.Tensor:
            alpha = alpha.detach().float().numpy()
        self.scale = alpha / self.lora_dim
        self.register_buffer("alpha", torch.tensor(alpha))
        self.org_module = [org_module]
        self.enabled = True
        self.org_forward = None

    def apply_to(self):
        if self.org_forward is None:
            self.org_forward = self.org_module[0].forward
            self.org_module[0].forward = self.forward

    def unapply_to(self):
        if self.org_forward is not None:
            self.org_module[0].forward = self.org_forward

    def forward(self, x, scale=1.0):
        if not self.enabled:
            return self.org_forward(x)
        return self.org_forward(x) + self.lora_up(self.lora_down(x)) * self.multiplier * self.scale

    def merge_to(self, multiplier=1.0):
        up, down = self.lora_up.weight.float(), self.lora_down.weight.float()
        if down.ndim == 2:
            weight = multiplier * (up @ down) * self.scale
        else:
            conved = torch.nn.functional.conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3)
            weight = multiplier * conved * self.scale
        org_sd = self.org_module[0].state_dict()
        org_sd["weight"] = org_sd["weight"] + weight.to(org_sd["weight"].dtype)
        self.org_module[0].load_state_dict(org_sd)


class LoRANetwork(torch.nn.Module):
    BLOCKS = ("Transformer2DModel", "ResnetBlock2D", "CLIPAttention", "CLIPSdpaAttention", "CLIPMLP")

    def __init__(self, text_encoder, unet, weights_sd, multiplier=1.0):
        super().__init__()
        self.loras = []
        for prefix, root in (("lora_unet", unet), ("lora_te", text_encoder)):
            for name, module in root.named_modules():
                if module.__class__.__name__ in self.BLOCKS:
                    for child_name, child in module.named_modules():
                        lora_name = f"{prefix}_{name}_{child_name}".replace(".", "_")
                        if f"{lora_name}.lora_down.weight" in weights_sd:
                            dim = weights_sd[f"{lora_name}.lora_down.weight"].size()[0]
                            alpha = weights_sd[f"{lora_name}.alpha"]
                            self.loras.append(LoRAModule(lora_name, child, multiplier, dim, alpha))
        for lora in self.loras:
            self.add_module(lora.lora_name, lora)

    def apply_to(self, multiplier=1.0):
        for lora in self.loras:
            lora.multiplier = multiplier
            lora.apply_to()

    def unapply_to(self):
        for lora in self.loras:
            lora.unapply_to()

    def merge_to(self, multiplier=1.0):
        for lora in self.loras:
            lora.merge_to(multiplier)


def write_lora(unet, text_encoder, file):
    generator = torch.Generator().manual_seed(7)
    layers = dict(lora_unet=("to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "conv1"), lora_te=("q_proj", "fc1"))
    tensors = {}
    for prefix, root in (("lora_unet", unet), ("lora_te", text_encoder)):
        for name, layer in root.named_modules():
            if name.endswith(layers[prefix]) and hasattr(layer, "weight"):
                key = f"{prefix}_{name}".replace(".", "_")
                out, *rest = layer.weight.shape
                tensors[f"{key}.lora_down.weight"] = torch.randn(4, *rest, generator=generator) * 0.4
                up = torch.randn(out, 4, *[1] * (len(rest) - 1), generator=generator)
                tensors[f"{key}.lora_up.weight"] = up * 0.4
                tensors[f"{key}.alpha"] = torch.tensor(2.0)
    save_file(tensors, file)


controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny")
pipe = StableDiffusionControlNetImg2ImgPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, safety_checker=None
).to("cuda")
call = dict(image=load_image("pictures/house.png"), control_image=load_image("pictures/canny.png"), strength=0.8,
            num_inference_steps=5)  # fmt: skip


def draw(name, **options):
    generator = torch.Generator().manual_seed(1)
    pipe("a castle", generator=generator, **call, **options).images[0].save(f"{name}.png")


write_lora(pipe.unet, pipe.text_encoder, "castle.safetensors")
network = LoRANetwork(pipe.text_encoder, pipe.unet, load_file("castle.safetensors"))
network.load_state_dict(load_file("castle.safetensors"))
draw("plain")
for multiplier in (0.8, 0.3):
    network.apply_to(multiplier)
    draw(f"network-{multiplier}")
for lora in network.loras:
    lora.enabled = lora.lora_name.startswith("lora_te")
draw("text-only")
network.unapply_to()
network.merge_to(0.6)
draw("merged")
network.merge_to(-0.6)
unet_only = {k: v for k, v in load_file("castle.safetensors").items() if k.startswith("lora_unet") and "conv1" not in k}
save_file(unet_only, "castle-unet.safetensors")
pipe.load_lora_weights(".", weight_name="castle-unet.safetensors")
for scale in (1.0, 0.4):
    draw(f"loader-{scale}", cross_attention_kwargs={"scale": scale})
