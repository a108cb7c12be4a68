"""``python -m ms_controlnet_backend.demo.training FOLDER`` trains the demo's checkpoint; run again, it goes on."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch

from . import autoencoder, data, diffusion
from .curve import curve
from .parts import make_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ms_controlnet_backend.demo.training", description=__doc__)
    parser.add_argument("folder", type=Path, help="where everything goes; FOLDER/checkpoint is the result")
    parser.add_argument("--scenes", type=int, default=32768, help="number of pictures to train on")
    parser.add_argument("--autoencoder-steps", type=int, default=2600)
    parser.add_argument("--decoder-steps", type=int, default=9600, help="of the decoder alone, after the autoencoder")
    parser.add_argument("--steps", type=int, default=12000, help="of UNet, text encoder and ControlNets")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--float32", action="store_true", help="no bfloat16 arithmetic")
    parser.add_argument("--until", choices=("decoder",), help="leave out what comes after")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=not options.float32)

    drawn = data.pictures(folder, options.scenes)
    vae = autoencoder.train(folder, drawn, steps=options.autoencoder_steps, autocast=autocast)
    tokenizer = make_tokenizer()
    encoded = data.encoded(folder, drawn, vae, tokenizer)
    autoencoder.sharpen(folder, vae, drawn, encoded["latents"], steps=options.decoder_steps, autocast=autocast)
    if options.until != "decoder":
        diffusion.train(folder, encoded, vae, tokenizer, steps=options.steps, autocast=autocast)
        if importlib.util.find_spec("matplotlib"):
            curve(folder)


if __name__ == "__main__":
    main()
