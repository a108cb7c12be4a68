"""LoRA files as Kohya's training scripts write them: flat names, ``lora_down``, ``lora_up``, an ``alpha`` a layer."""

from __future__ import annotations

import torch

LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def lora(module, prefix: str, seed: int, layers=LAYERS, name=lambda path: path, rank: int = 2, alpha=1.0) -> dict:
    """The tensors for every layer of the module whose path ends with one of ``layers``.

    prefix: "lora_unet_", "lora_te_text_model_", … name: path in the module → path in the original module.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for path, layer in module.named_modules():
        if path.endswith(tuple(f".{end}" for end in layers)):
            key = prefix + name(path).replace(".", "_")
            down, up = (rank, *layer.weight.shape[1:]), (layer.weight.shape[0], rank, *[1] * (layer.weight.ndim - 2))
            found[f"{key}.lora_down.weight"] = torch.randn(down, generator=generator) * 0.3
            found[f"{key}.lora_up.weight"] = torch.randn(up, generator=generator) * 0.3
            found[f"{key}.alpha"] = torch.tensor(alpha)
    return found
