"""diffusers' weights → the original checkpoint formats (CompVis, Stability AI, lllyasviel), which ``from_single_file``
reads."""

from __future__ import annotations

import re

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
OUTER = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
         "controlnet_cond_embedding.conv_in": "input_hint_block.0", "controlnet_mid_block": "middle_block_out.0",
         "controlnet_cond_embedding.conv_out": "input_hint_block.14", "add_embedding.linear_1": "label_emb.0.0",
         "add_embedding.linear_2": "label_emb.0.2"}  # fmt: skip
VAE = {"mid_block.attentions.0": "mid.attn_1", "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v",
       "to_out.0": "proj_out", "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out",
       "downsamplers.0": "downsample", "upsamplers.0": "upsample"}  # fmt: skip
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding", "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks", "layer_norm": "ln_", "fc1": "c_fc",
    "fc2": "c_proj", "self_attn": "attn",
}  # fmt: skip


def denoiser(model, prefix: str) -> dict:
    """A UNet's or ControlNet's state dict."""
    per_block = model.config.layers_per_block + 1
    return {prefix + _denoiser_key(key, per_block, model): t for key, t in model.state_dict().items()}


def control_lora(net, seed: int, rank: int = 2) -> dict:
    """A Control-LoRA (stabilityai/control-lora) for a ControlNet: low-rank changes of its matrices and convolutions,
    and whole other weights for the rest of it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator) * 0.3  # noqa: E731
    found = {"lora_controlnet": torch.tensor([])}
    for key, t in denoiser(net, "").items():
        whole = key.startswith(("zero_convs", "input_hint_block", "middle_block_out")) or t.ndim == 1
        if whole:
            found[key] = t + random(*t.shape)
        else:
            path = key.removesuffix(".weight")
            found[f"{path}.up"] = random(t.shape[0], rank, *[1] * (t.ndim - 2))
            found[f"{path}.down"] = random(rank, *t.shape[1:])
    return found


def denoiser_path(path: str, model) -> str:
    """The original path of a layer of a UNet."""
    return _denoiser_key(f"{path}.weight", model.config.layers_per_block + 1, model).removesuffix(".weight")


def _denoiser_key(key: str, per_block: int, model) -> str:
    path, _, leaf = key.rpartition(".")
    if path in OUTER:
        return f"{OUTER[path]}.{leaf}"
    if match := re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", key):
        return f"zero_convs.{match[1]}.0.{match[2]}"
    if match := re.match(r"controlnet_cond_embedding\.blocks\.(\d+)\.(.*)", key):
        return f"input_hint_block.{2 * int(match[1]) + 2}.{match[2]}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", key):
        place = 2 * int(match[2]) + (match[1] == "attentions")
        return f"middle_block.{place}.{_inside(match[1], match[3])}"
    side, block, kind, layer, rest = re.match(r"(down|up)_blocks\.(\d+)\.(\w+?)\.(\d+)\.(.*)", key).groups()
    first = int(block) * per_block + (side == "down")
    side = {"down": "input_blocks", "up": "output_blocks"}[side]
    if kind == "downsamplers":
        return f"{side}.{first + per_block - 1}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        attends = hasattr(model.up_blocks[int(block)], "attentions")
        return f"{side}.{first + per_block - 1}.{1 + attends}.{rest}"
    return f"{side}.{first + int(layer)}.{int(kind == 'attentions')}.{_inside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    path, _, leaf = rest.rpartition(".")
    return f"{RESNET[path]}.{leaf}" if kind == "resnets" else rest


def vae(model, prefix: str = "first_stage_model.") -> dict:
    last = len(model.config.up_block_types) - 1
    found = {}
    for key, t in model.state_dict().items():
        if "attentions" in key and t.ndim == 2:
            t = t[..., None, None]
        for ours, theirs in VAE.items():
            key = key.replace(ours, theirs)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        key = re.sub(r"down_blocks\.(\d)", r"down.\1", key).replace("resnets", "block")
        key = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{last - int(m[1])}", key)
        found[prefix + key] = t
    return found


def xl(unet, autoencoder, text_encoder, text_encoder_2) -> dict:
    """An SDXL base checkpoint: UNet, VAE, CLIP's and OpenCLIP's text encoder."""
    found = denoiser(unet, "model.diffusion_model.") | vae(autoencoder)
    first = "conditioner.embedders.0.transformer.text_model."
    found |= {first + key.removeprefix("text_model."): t for key, t in text_encoder.state_dict().items()}
    found |= {f"conditioner.embedders.1.model.{key}": t for key, t in open_clip(text_encoder_2).items()}
    return {key: t.contiguous() for key, t in found.items()}


def open_clip(text_encoder) -> dict:
    """A CLIPTextModelWithProjection: queries, keys and values are one matrix, the projection is transposed."""
    import torch

    state = {key.removeprefix("text_model."): t for key, t in text_encoder.state_dict().items()}
    found = {"text_projection": state.pop("text_projection.weight").T}
    for key in list(state):
        if match := re.match(r"(.*self_attn)\.q_proj\.(weight|bias)", key):
            parts = [state.pop(f"{match[1]}.{x}_proj.{match[2]}") for x in "qkv"]
            state[f"{match[1]}.in_proj_{match[2]}"] = torch.cat(parts)
    for key, t in state.items():
        for ours, theirs in OPEN_CLIP.items():
            key = key.replace(ours, theirs)
        found[key] = t
    return found
