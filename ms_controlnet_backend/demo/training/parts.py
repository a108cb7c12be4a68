"""The pipeline's parts before training: architectures and tokenizer."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ..scenes import SIZE, vocabulary

TOKENS = 48
WIDTH = 128
CONTROLS = ("edges", "masks")
_SHAPE = dict(
    block_out_channels=(96, 128), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1,
    cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=8,
)  # fmt: skip


def make_tokenizer():
    """A byte-level CLIP tokenizer in which every word of the captions is one token; other words are spelt."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    base = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    base.train_from_iterator(
        vocabulary(), trainers.BpeTrainer(end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False)
    )
    merges = [" ".join(pair) for pair in json.loads(base.to_str())["model"]["merges"]]
    characters = sorted(alphabet)
    tokens = characters + [c + "</w>" for c in characters] + [m.replace(" ", "") for m in merges]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocab, order = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
        order.write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def make_autoencoder():
    """8x8 pixels to one place of 4 channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=[16, 32, 64, 64], down_block_types=["DownEncoderBlock2D"] * 4, layers_per_block=1,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, norm_num_groups=8, sample_size=SIZE,
        mid_block_add_attention=False,
    )  # fmt: skip


def make_text_encoder(tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModel

    size = len(tokenizer)
    return CLIPTextModel(
        CLIPTextConfig(
            bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1, vocab_size=size, hidden_size=WIDTH,
            intermediate_size=2 * WIDTH, num_attention_heads=4, num_hidden_layers=3, max_position_embeddings=TOKENS,
            projection_dim=WIDTH,
        )
    )  # fmt: skip


def make_unet():
    from diffusers import UNet2DConditionModel

    ups = tuple(name.replace("Down", "Up") for name in reversed(_SHAPE["down_block_types"]))
    return UNet2DConditionModel(sample_size=SIZE // 8, in_channels=4, out_channels=4, up_block_types=ups, **_SHAPE)


def make_controlnet():
    from diffusers import ControlNetModel

    return ControlNetModel(in_channels=4, conditioning_embedding_out_channels=(8, 16, 32, 64), **_SHAPE)


def make_scheduler():
    """Velocity prediction, and noise enough at the end that a flat background's colour does not show through it:
    with Stable Diffusion's own ``beta_end`` of 0.012 the mean of 16x16 latents would (Lin et al., arXiv:2305.08891)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.03, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
