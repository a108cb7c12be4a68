# In the manner of the IP-Adapter repository (diffusers >= 0.19.3): an object around the pipeline replaces the attention
# processors of the UNet and of every ControlNet, and the image goes in as four more tokens of the prompt.
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet import MultiControlNetModel
from diffusers.utils import load_image
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection


class ImageProjModel(nn.Module):
    def __init__(self, cross_attention_dim, clip_embeddings_dim, clip_extra_context_tokens=4):
        super().__init__()
        self.cross_attention_dim, self.tokens = cross_attention_dim, clip_extra_context_tokens
        self.proj = nn.Linear(clip_embeddings_dim, self.tokens * cross_attention_dim)
        self.norm = nn.LayerNorm(cross_attention_dim)

    def forward(self, image_embeds):
        return self.norm(self.proj(image_embeds).reshape(-1, self.tokens, self.cross_attention_dim))


def split(attn, tensor):
    batch, _, width = tensor.shape
    return tensor.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2)


def attend(attn, query, key, value):
    out = F.scaled_dot_product_attention(split(attn, query), split(attn, key), split(attn, value))
    return out.transpose(1, 2).reshape(query.shape).to(query.dtype)


class AttnProcessor2_0(nn.Module):
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        out = attend(attn, attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        return attn.to_out[1](attn.to_out[0](out))


class IPAttnProcessor2_0(nn.Module):
    def __init__(self, hidden_size, cross_attention_dim=None, scale=1.0, num_tokens=4):
        super().__init__()
        self.scale, self.num_tokens = scale, num_tokens
        self.to_k_ip = nn.Linear(cross_attention_dim or hidden_size, hidden_size, bias=False)
        self.to_v_ip = nn.Linear(cross_attention_dim or hidden_size, hidden_size, bias=False)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        end_pos = encoder_hidden_states.shape[1] - self.num_tokens
        text, ip = encoder_hidden_states[:, :end_pos, :], encoder_hidden_states[:, end_pos:, :]
        query = attn.to_q(hidden_states)
        out = attend(attn, query, attn.to_k(text), attn.to_v(text))
        key, value = split(attn, self.to_k_ip(ip)), split(attn, self.to_v_ip(ip))
        with torch.no_grad():
            self.attn_map = split(attn, query) @ key.transpose(-2, -1).softmax(dim=-1)
        ip = F.scaled_dot_product_attention(split(attn, query), key, value, dropout_p=0.0, is_causal=False)
        out = out + self.scale * ip.transpose(1, 2).reshape(out.shape)
        return attn.to_out[1](attn.to_out[0](out))


class CNAttnProcessor2_0:
    def __init__(self, num_tokens=4):
        self.num_tokens = num_tokens

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        if encoder_hidden_states is None:
            context = hidden_states
        else:
            context = encoder_hidden_states[:, : encoder_hidden_states.shape[1] - self.num_tokens]
        out = attend(attn, attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        return attn.to_out[1](attn.to_out[0](out))


class IPAdapter:
    def __init__(self, sd_pipe, image_encoder_path, device, num_tokens=4):
        self.device, self.num_tokens = device, num_tokens
        self.pipe = sd_pipe.to(self.device)
        self.set_ip_adapter()
        self.image_encoder = CLIPVisionModelWithProjection.from_pretrained(image_encoder_path).to(self.device)
        self.clip_image_processor = CLIPImageProcessor(size=32, crop_size=32)
        torch.manual_seed(8)
        self.image_proj_model = ImageProjModel(
            self.pipe.unet.config.cross_attention_dim, self.image_encoder.config.projection_dim, num_tokens
        ).to(self.device)
        ip_layers = nn.ModuleList(self.pipe.unet.attn_processors.values())
        ip_layers.load_state_dict({k: torch.randn(v.shape) for k, v in ip_layers.state_dict().items()})

    def set_ip_adapter(self):
        unet = self.pipe.unet
        attn_procs = {}
        for name in unet.attn_processors.keys():
            cross_attention_dim = None if name.endswith("attn1.processor") else unet.config.cross_attention_dim
            if name.startswith("mid_block"):
                hidden_size = unet.config.block_out_channels[-1]
            elif name.startswith("up_blocks"):
                hidden_size = list(reversed(unet.config.block_out_channels))[int(name[len("up_blocks.")])]
            elif name.startswith("down_blocks"):
                hidden_size = unet.config.block_out_channels[int(name[len("down_blocks.")])]
            if cross_attention_dim is None:
                attn_procs[name] = AttnProcessor2_0()
            else:
                attn_procs[name] = IPAttnProcessor2_0(hidden_size, cross_attention_dim, 1.0, self.num_tokens)
        unet.set_attn_processor(attn_procs)
        if isinstance(self.pipe.controlnet, MultiControlNetModel):
            for controlnet in self.pipe.controlnet.nets:
                controlnet.set_attn_processor(CNAttnProcessor2_0(num_tokens=self.num_tokens))
        else:
            self.pipe.controlnet.set_attn_processor(CNAttnProcessor2_0(num_tokens=self.num_tokens))

    @torch.inference_mode()
    def get_image_embeds(self, pil_image):
        clip_image = self.clip_image_processor(images=[pil_image], return_tensors="pt").pixel_values
        clip_image_embeds = self.image_encoder(clip_image.to(self.device)).image_embeds
        return self.image_proj_model(clip_image_embeds), self.image_proj_model(torch.zeros_like(clip_image_embeds))

    def set_scale(self, scale):
        for attn_processor in self.pipe.unet.attn_processors.values():
            if isinstance(attn_processor, IPAttnProcessor2_0):
                attn_processor.scale = scale

    def generate(self, pil_image, prompt, negative_prompt, scale=1.0, num_samples=2, seed=None, **kwargs):
        self.set_scale(scale)
        image_embeds, uncond_image_embeds = self.get_image_embeds(pil_image)
        image_embeds, uncond_image_embeds = (e.repeat(num_samples, 1, 1) for e in (image_embeds, uncond_image_embeds))
        with torch.inference_mode():
            prompt_embeds_, negative_prompt_embeds_ = self.pipe.encode_prompt(
                prompt, device=self.device, num_images_per_prompt=num_samples, do_classifier_free_guidance=True,
                negative_prompt=negative_prompt,
            )  # fmt: skip
            prompt_embeds = torch.cat([prompt_embeds_, image_embeds], dim=1)
            negative_prompt_embeds = torch.cat([negative_prompt_embeds_, uncond_image_embeds], dim=1)
        generator = torch.Generator(self.device).manual_seed(seed)
        return self.pipe(
            prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_prompt_embeds, generator=generator, **kwargs
        ).images


controlnets = [ControlNetModel.from_pretrained(f"tiny/controlnet-{kind}") for kind in ("canny", "depth")]
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnets, torch_dtype=torch.float32, feature_extractor=None,
    safety_checker=None, scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                                 clip_sample=False, set_alpha_to_one=False, steps_offset=1),
)  # fmt: skip
ip_model = IPAdapter(pipe, "tiny/ip-adapter/models/image_encoder", "cuda")
maps = [load_image("pictures/canny.png"), load_image("pictures/depth.png")]
for number, (style, scale) in enumerate((("style", 1.0), ("style", 0.3), ("house", 1.0))):
    picture = load_image(f"pictures/{style}.png")
    images = ip_model.generate(picture, "best quality", "lowres", scale, seed=42, image=maps, num_inference_steps=4,
                               controlnet_conditioning_scale=[1.0, 0.6])  # fmt: skip
    for i, image in enumerate(images):
        image.save(f"{number}-{i}.png")
