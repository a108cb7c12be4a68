"""The demo's pipeline in the diffusers folder layout: seeded random weights, made on first use, nothing downloaded."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)
SEED = 20261123


def ensure(folder: Path) -> Path:
    """The folder of the pipeline; made if it is not there yet."""
    if not (folder / "model_index.json").exists():
        logger.info("making the demo's pipeline in %s", folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent))
        make_pipeline().save_pretrained(building)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    return folder


def make_tokenizer():
    """A byte-level CLIP tokenizer without merges: every character is a token, no vocabulary to download."""
    import json

    from transformers import CLIPTokenizer

    characters = [chr(c) for c in _byte_characters()]
    tokens = characters + [c + "</w>" for c in characters] + ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
        merges.write_text("#version: 0.2\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def _byte_characters() -> list[int]:
    """The 256 printable code points that byte-level BPE maps bytes to (Radford et al., GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return printable + [256 + i for i in range(256 - len(printable))]


def make_pipeline():
    """A StableDiffusionControlNetPipeline of about two million parameters. Zero-convolutions are not zero, so the
    control picture matters; the pictures mean nothing until a trained checkpoint takes this one's place."""
    import torch
    from diffusers import (
        AutoencoderKL,
        ControlNetModel,
        StableDiffusionControlNetPipeline,
        UNet2DConditionModel,
        UniPCMultistepScheduler,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        tokenizer = make_tokenizer()
        size = len(tokenizer)
        text = CLIPTextConfig(
            bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1, vocab_size=size, hidden_size=64,
            intermediate_size=128, num_attention_heads=4, num_hidden_layers=4,
        )  # fmt: skip
        blocks = dict(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64, norm_num_groups=8,
                      attention_head_dim=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"))  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=4, out_channels=4, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **blocks
        )
        controlnet = ControlNetModel(in_channels=4, conditioning_embedding_out_channels=(8, 16), **blocks)
        vae = AutoencoderKL(
            block_out_channels=[16, 32], in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4, norm_num_groups=4,
        )  # fmt: skip
        with torch.no_grad():
            for p in controlnet.parameters():
                if not p.any():
                    p.normal_(std=0.2)
        return StableDiffusionControlNetPipeline(
            unet=unet, controlnet=controlnet, vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer,
            scheduler=UniPCMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
