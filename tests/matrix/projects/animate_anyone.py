# In the manner of AnimateAnyone and MagicAnimate (diffusers 0.24): a reference UNet whose attention inputs are read by
# a second UNet, a subclass that takes five dimensions, has temporal layers and adds the features of a pose guider.
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import load_image
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection


class PoseGuider(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, conditioning_embedding_channels=8, block_out_channels=(4, 8)):
        super().__init__()
        self.conv_in = nn.Conv2d(3, block_out_channels[0], 3, padding=1)
        self.block = nn.Conv2d(block_out_channels[0], block_out_channels[1], 3, padding=1, stride=2)
        self.conv_out = nn.Conv2d(block_out_channels[1], conditioning_embedding_channels, 3, padding=1)

    def forward(self, conditioning):
        b, c, f, h, w = conditioning.shape
        x = conditioning.permute(0, 2, 1, 3, 4).reshape(b * f, c, h, w)
        x = self.conv_out(nn.functional.silu(self.block(nn.functional.silu(self.conv_in(x)))))
        return x.reshape(b, f, *x.shape[1:]).permute(0, 2, 1, 3, 4)


class TemporalAttention(nn.Module):
    def __init__(self, channels, heads=2):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x, frames):
        bf, c, h, w = x.shape
        tokens = x.reshape(bf // frames, frames, c, h * w).permute(0, 3, 1, 2).reshape(-1, frames, c)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens.reshape(bf // frames, h * w, frames, c).permute(0, 2, 3, 1).reshape(bf, c, h, w)


class UNet3DConditionModel(UNet2DConditionModel):
    @classmethod
    def from_pretrained_2d(cls, path, subfolder):
        flat = UNet2DConditionModel.from_pretrained(path, subfolder=subfolder)
        model = cls.from_config(flat.config)
        torch.manual_seed(11)
        model.motion_modules = nn.ModuleList(TemporalAttention(c) for c in (flat.config.block_out_channels[-1],) * 2)
        missing, unexpected = model.load_state_dict(flat.state_dict(), strict=False)
        assert not unexpected and all("motion" in name for name in missing)
        return model.eval()

    def forward(self, sample, timestep, encoder_hidden_states, pose_cond_fea=None, return_dict=True):
        batch, channels, frames, height, width = sample.shape
        sample = sample.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)
        encoder_hidden_states = encoder_hidden_states.repeat_interleave(frames, dim=0)
        timesteps = timestep.reshape(1).expand(sample.shape[0])
        emb = self.time_embedding(self.time_proj(timesteps).to(dtype=sample.dtype))
        sample = self.conv_in(sample)
        if pose_cond_fea is not None:
            sample = sample + pose_cond_fea.permute(0, 2, 1, 3, 4).flatten(0, 1)
        res_samples = (sample,)
        for block in self.down_blocks:
            if getattr(block, "has_cross_attention", False):
                sample, res = block(hidden_states=sample, temb=emb, encoder_hidden_states=encoder_hidden_states)
            else:
                sample, res = block(hidden_states=sample, temb=emb)
            res_samples += res
        sample = self.motion_modules[0](sample, frames)
        sample = self.mid_block(sample, emb, encoder_hidden_states=encoder_hidden_states)
        sample = self.motion_modules[1](sample, frames)
        for block in self.up_blocks:
            res, res_samples = res_samples[-len(block.resnets) :], res_samples[: -len(block.resnets)]
            arguments = dict(hidden_states=sample, temb=emb, res_hidden_states_tuple=res)
            if getattr(block, "has_cross_attention", False):
                arguments["encoder_hidden_states"] = encoder_hidden_states
            sample = block(**arguments)
        sample = self.conv_out(self.conv_act(self.conv_norm_out(sample)))
        sample = sample.reshape(batch, frames, *sample.shape[1:]).permute(0, 2, 1, 3, 4)
        return (sample,)


class ReferenceAttentionControl:
    def __init__(self, unet, mode):
        self.modules = [m for m in unet.modules() if isinstance(m, BasicTransformerBlock)]
        MODE = mode

        def hacked_basic_transformer_inner_forward(
            self, hidden_states, attention_mask=None, encoder_hidden_states=None, encoder_attention_mask=None,
            timestep=None, cross_attention_kwargs=None, class_labels=None, added_cond_kwargs=None,
        ):  # fmt: skip
            norm_hidden_states = self.norm1(hidden_states)
            if MODE == "write":
                self.bank.append(norm_hidden_states.clone())
                hidden_states = self.attn1(norm_hidden_states) + hidden_states
            if MODE == "read":
                frames = hidden_states.shape[0] // self.bank[0].shape[0]
                bank = [d.repeat_interleave(frames, dim=0) for d in self.bank]
                context = torch.cat([norm_hidden_states] + bank, dim=1)
                hidden_states_uc = self.attn1(norm_hidden_states, encoder_hidden_states=context) + hidden_states
                half = hidden_states.shape[0] // 2
                uc_mask = torch.Tensor([1] * half + [0] * half).bool()
                hidden_states_c = hidden_states_uc.clone()
                hidden_states_c[uc_mask] = self.attn1(norm_hidden_states[uc_mask]) + hidden_states[uc_mask]
                hidden_states = hidden_states_c.clone()
            norm_hidden_states = self.norm2(hidden_states)
            hidden_states = self.attn2(norm_hidden_states, encoder_hidden_states=encoder_hidden_states) + hidden_states
            return self.ff(self.norm3(hidden_states)) + hidden_states

        for module in self.modules:
            module.forward = hacked_basic_transformer_inner_forward.__get__(module, BasicTransformerBlock)
            module.bank = []

    def update(self, writer):
        for r, w in zip(self.modules, writer.modules):
            r.bank = [v.clone() for v in w.bank]

    def clear(self):
        for module in self.modules:
            module.bank.clear()


class Pose2VideoPipeline(DiffusionPipeline):
    def __init__(self, vae, image_encoder, reference_unet, denoising_unet, pose_guider, scheduler):
        super().__init__()
        self.register_modules(vae=vae, image_encoder=image_encoder, reference_unet=reference_unet,
                              denoising_unet=denoising_unet, pose_guider=pose_guider, scheduler=scheduler)  # fmt: skip
        self.clip_image_processor = CLIPImageProcessor(size=32, crop_size=32)

    @torch.no_grad()
    def __call__(self, ref_image, pose_images, num_inference_steps, guidance_scale, generator):
        clip_image = self.clip_image_processor.preprocess(ref_image, return_tensors="pt").pixel_values
        embeds = self.image_encoder(clip_image).image_embeds.unsqueeze(1)
        dim = self.denoising_unet.config.cross_attention_dim
        embeds = nn.functional.pad(embeds, (0, max(0, dim - embeds.shape[-1])))[..., :dim]
        embeds = torch.cat([torch.zeros_like(embeds), embeds])
        writer = ReferenceAttentionControl(self.reference_unet, "write")
        reader = ReferenceAttentionControl(self.denoising_unet, "read")

        def tensor(image):
            return torch.from_numpy(np.array(image).astype(np.float32) / 127.5 - 1.0).permute(2, 0, 1)

        reference = self.vae.encode(tensor(ref_image)[None]).latent_dist.mean * 0.18215
        poses = torch.stack([tensor(p) / 2 + 0.5 for p in pose_images], dim=1)[None]
        pose_fea = self.pose_guider(poses)
        latents = torch.randn(1, 4, len(pose_images), *reference.shape[2:], generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for i, t in enumerate(self.scheduler.timesteps):
            if i == 0:
                zero = torch.zeros_like(t)
                self.reference_unet(reference.repeat(2, 1, 1, 1), zero, encoder_hidden_states=embeds, return_dict=False)
                reader.update(writer)
            model_input = self.scheduler.scale_model_input(torch.cat([latents] * 2), t)
            noise_pred = self.denoising_unet(
                model_input, t, encoder_hidden_states=embeds, pose_cond_fea=torch.cat([pose_fea] * 2), return_dict=False
            )[0]
            uncond, text = noise_pred.chunk(2)
            noise_pred = uncond + guidance_scale * (text - uncond)
            latents = self.scheduler.step(noise_pred, t, latents).prev_sample
        reader.clear(), writer.clear()
        frames = [self.vae.decode(latents[:, :, f] / 0.18215).sample for f in range(latents.shape[2])]
        return [Image.fromarray((((f[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1)) * 255).byte().numpy()) for f in frames]


vae = AutoencoderKL.from_pretrained("tiny/stable-diffusion-v1-5", subfolder="vae").to("cuda")
reference_unet = UNet2DConditionModel.from_pretrained("tiny/stable-diffusion-v1-5", subfolder="unet").to("cuda")
denoising_unet = UNet3DConditionModel.from_pretrained_2d("tiny/stable-diffusion-v1-5", subfolder="unet").to("cuda")
image_encoder = CLIPVisionModelWithProjection.from_pretrained("tiny/ip-adapter/models/image_encoder").to("cuda")
torch.manual_seed(2)
pipe = Pose2VideoPipeline(
    vae=vae, image_encoder=image_encoder, reference_unet=reference_unet, denoising_unet=denoising_unet,
    pose_guider=PoseGuider().eval(), scheduler=DDIMScheduler(beta_schedule="linear", steps_offset=1, clip_sample=False),
)  # fmt: skip
pipe = pipe.to("cuda")
poses = [load_image("pictures/canny.png"), load_image("pictures/depth.png"), load_image("pictures/house.png")]
for reference in ("style", "house"):
    generator = torch.manual_seed(42)
    for f, frame in enumerate(pipe(load_image(f"pictures/{reference}.png"), poses, 4, 3.5, generator)):
        frame.save(f"{reference}-{f}.png")
