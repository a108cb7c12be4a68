"""A saved checkpoint in a form that diffusers since 0.25 and transformers since 4.36 read alike."""

from __future__ import annotations

import json
from pathlib import Path

import torch

_TEXT = "text_model."
_YOUNGER = {
    "text_encoder": ("dtype",),
    "vae": ("mid_block_add_attention", "shift_factor", "latents_mean", "latents_std", "use_quant_conv",
            "use_post_quant_conv"),
}  # fmt: skip
"""Settings that old versions do not know, and that now have their default values."""


def make_portable(folder: Path) -> None:
    """In place; a second time changes nothing."""
    _rewrite(folder / "text_encoder" / "model.safetensors", _named_as_by_transformers_4)
    _rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors", _with_attention)
    for part, names in _YOUNGER.items():
        file = folder / part / "config.json"
        config = {k: v for k, v in json.loads(file.read_text()).items() if k not in names}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    _spell_out(folder / "tokenizer")


def _rewrite(file: Path, change) -> None:
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def _named_as_by_transformers_4(weights: dict) -> dict:
    """Version 5 reads both names, 4 only these, and leaves random what it does not find."""
    return {name if name.startswith(_TEXT) else _TEXT + name: t for name, t in weights.items()}


def _with_attention(weights: dict) -> dict:
    """An autoencoder without attention in its middle is younger than diffusers 0.30: here it has one that adds zero."""
    weights = dict(weights)
    for side in ("encoder", "decoder"):
        like = weights[f"{side}.mid_block.resnets.0.norm1.weight"]
        place = f"{side}.mid_block.attentions.0."
        weights[place + "group_norm.weight"] = torch.ones_like(like)
        weights[place + "group_norm.bias"] = torch.zeros_like(like)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            weights[f"{place}{name}.weight"] = like.new_zeros(len(like), len(like))
            weights[f"{place}{name}.bias"] = torch.zeros_like(like)
    return weights


def _spell_out(folder: Path) -> None:
    """The files of the tokenizer that is written in Python, all that transformers 4 looks for."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
