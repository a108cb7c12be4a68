# In the manner of InstantID (diffusers 0.25.0): a subclass of the pipeline with a __call__ of its own, attention
# processors of its own, a network that is no component of the pipeline, and a global list that the processors look at.
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from diffusers.pipelines.stable_diffusion_xl import StableDiffusionXLPipelineOutput
from diffusers.utils import load_image
from torch import nn


class RegionControl:
    def __init__(self):
        self.prompt_image_conditioning = []


region_control = RegionControl()


class PlainProcessor(nn.Module):
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = map(attn.head_to_batch_dim, (query, key, value))
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(torch.bmm(probabilities, value))))


class FaceProcessor(nn.Module):
    def __init__(self, hidden_size, cross_attention_dim, scale, num_tokens):
        super().__init__()
        self.scale, self.num_tokens = scale, num_tokens
        self.to_k_ip = nn.Linear(cross_attention_dim, hidden_size, bias=False)
        self.to_v_ip = nn.Linear(cross_attention_dim, hidden_size, bias=False)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        end = encoder_hidden_states.shape[1] - self.num_tokens
        text, face = encoder_hidden_states[:, :end], encoder_hidden_states[:, end:]

        def attend(query, key, value):
            batch, _, width = query.shape
            heads = [x.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2) for x in (query, key, value)]
            out = F.scaled_dot_product_attention(*heads, dropout_p=0.0, is_causal=False)
            return out.transpose(1, 2).reshape(batch, -1, width)

        query = attn.to_q(hidden_states)
        out = attend(query, attn.to_k(text), attn.to_v(text))
        face = attend(query, self.to_k_ip(face), self.to_v_ip(face))
        if len(region_control.prompt_image_conditioning) == 1:
            region_mask = region_control.prompt_image_conditioning[0].get("region_mask", None)
            if region_mask is not None:
                h, w = region_mask.shape[:2]
                ratio = (h * w / query.shape[1]) ** 0.5
                mask = F.interpolate(region_mask[None, None], scale_factor=1 / ratio, mode="nearest")
                face = face * mask.reshape([1, -1, 1])
        return attn.to_out[1](attn.to_out[0](out + self.scale * face))


class Resampler(nn.Module):
    def __init__(self, dim, heads, num_queries, embedding_dim, output_dim):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, num_queries, dim) / dim**0.5)
        self.proj_in, self.proj_out = nn.Linear(embedding_dim, dim), nn.Linear(dim, output_dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm_out = nn.LayerNorm(output_dim)

    def forward(self, x):
        x, latents = self.proj_in(x), self.latents.repeat(x.size(0), 1, 1)
        context = torch.cat((x, latents), dim=-2)
        return self.norm_out(self.proj_out(latents + self.attention(latents, context, context)[0]))


class InstantIDPipeline(StableDiffusionXLControlNetPipeline):
    def load_ip_adapter_instantid(self, model_ckpt, image_emb_dim=12, num_tokens=4, scale=0.5):
        dim = self.unet.config.cross_attention_dim
        image_proj_model = Resampler(16, 2, num_tokens, image_emb_dim, dim).eval()
        self.image_proj_model = image_proj_model.to(self.device, dtype=self.dtype)
        self.image_emb_dim = image_emb_dim
        processors = {}
        for name in self.unet.attn_processors:
            attention = self.unet.get_submodule(name.rpartition(".")[0])
            if name.endswith("attn1.processor"):
                processors[name] = PlainProcessor()
            else:
                processors[name] = FaceProcessor(attention.to_q.out_features, dim, scale, num_tokens)
        self.unet.set_attn_processor(processors)
        state_dict = torch.load(model_ckpt, map_location="cpu")
        self.image_proj_model.load_state_dict(state_dict["image_proj"])
        nn.ModuleList(self.unet.attn_processors.values()).load_state_dict(state_dict["ip_adapter"])

    def set_ip_adapter_scale(self, scale):
        for processor in self.unet.attn_processors.values():
            if isinstance(processor, FaceProcessor):
                processor.scale = scale

    @torch.no_grad()
    def __call__(self, prompt, image, image_embeds, num_inference_steps=50, guidance_scale=5.0, generator=None,
                 negative_prompt=None, controlnet_conditioning_scale=1.0, region_mask=None):  # fmt: skip
        device, controlnet = self._execution_device, self.controlnet
        embeds, negative_embeds, pooled, negative_pooled = self.encode_prompt(
            prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=True,
            negative_prompt=negative_prompt,
        )  # fmt: skip
        face = torch.tensor(image_embeds).to(device=device, dtype=self.unet.dtype).reshape([1, -1, self.image_emb_dim])
        face = self.image_proj_model(torch.cat([torch.zeros_like(face), face]))
        width, height = image.size
        image = self.prepare_image(
            image=image, width=width, height=height, batch_size=1, num_images_per_prompt=1, device=device,
            dtype=controlnet.dtype, do_classifier_free_guidance=True, guess_mode=False,
        )  # fmt: skip
        if region_mask is not None:
            region_control.prompt_image_conditioning = [dict(region_mask=region_mask)]
        else:
            region_control.prompt_image_conditioning = [dict(region_mask=None)]
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = self.prepare_latents(
            1, self.unet.config.in_channels, height, width, embeds.dtype, device, generator, None
        )
        extra_step_kwargs = self.prepare_extra_step_kwargs(generator, 0.0)
        time_ids = self._get_add_time_ids(
            (height, width), (0, 0), (height, width), dtype=embeds.dtype,
            text_encoder_projection_dim=self.text_encoder_2.config.projection_dim,
        )  # fmt: skip
        embeds = torch.cat([negative_embeds, embeds])
        added = {"text_embeds": torch.cat([negative_pooled, pooled]), "time_ids": torch.cat([time_ids, time_ids])}
        encoder_hidden_states = torch.cat([embeds, face], dim=1)
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for t in self.scheduler.timesteps:
                model_input = self.scheduler.scale_model_input(torch.cat([latents] * 2), t)
                down, mid = controlnet(
                    model_input, t, encoder_hidden_states=face, controlnet_cond=image,
                    conditioning_scale=controlnet_conditioning_scale, guess_mode=False, added_cond_kwargs=added,
                    return_dict=False,
                )  # fmt: skip
                noise_pred = self.unet(
                    model_input, t, encoder_hidden_states=encoder_hidden_states, cross_attention_kwargs=None,
                    down_block_additional_residuals=down, mid_block_additional_residual=mid, added_cond_kwargs=added,
                    return_dict=False,
                )[0]  # fmt: skip
                uncond, text = noise_pred.chunk(2)
                noise_pred = uncond + guidance_scale * (text - uncond)
                latents = self.scheduler.step(noise_pred, t, latents, **extra_step_kwargs, return_dict=False)[0]
                progress_bar.update()
        image = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return StableDiffusionXLPipelineOutput(images=self.image_processor.postprocess(image, output_type="pil"))


def write_checkpoint(unet, file):
    torch.manual_seed(5)
    dim = unet.config.cross_attention_dim
    tensors = {}
    for i, name in enumerate(unet.attn_processors):
        if not name.endswith("attn1.processor"):
            width = unet.get_submodule(name.rpartition(".")[0]).to_q.out_features
            for layer in ("to_k_ip", "to_v_ip"):
                tensors[f"{i}.{layer}.weight"] = torch.randn(width, dim)
    torch.save({"image_proj": Resampler(16, 2, 4, 12, dim).state_dict(), "ip_adapter": tensors}, file)


controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny-sdxl", torch_dtype=torch.float32)
pipe = InstantIDPipeline.from_pretrained(
    "tiny/stable-diffusion-xl-base-1.0", controlnet=controlnet, torch_dtype=torch.float32
)
pipe.to("cuda")
write_checkpoint(pipe.unet, "ip-adapter.bin")
pipe.load_ip_adapter_instantid("ip-adapter.bin")

face_emb = torch.randn(12, generator=torch.Generator().manual_seed(3)).numpy()
face_kps = load_image("pictures/canny.png")
region = torch.zeros(face_kps.size[::-1])
region[:, : face_kps.width // 2] = 1.0
call = dict(image=face_kps, image_embeds=face_emb, num_inference_steps=4, controlnet_conditioning_scale=0.8)
cases = (("strong", 0.8, None), ("weak", 0.1, None), ("left", 0.8, region), ("right", 0.8, 1 - region))
for name, scale, mask in cases:
    pipe.set_ip_adapter_scale(scale)
    generator = torch.Generator(device="cpu").manual_seed(42)
    images = pipe("a film photo of a man", negative_prompt="ugly", generator=generator, region_mask=mask, **call).images
    images[0].save(f"{name}.png")
