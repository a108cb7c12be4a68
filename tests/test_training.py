"""The recipe of the demo's checkpoint: every stage runs, and a run that is broken off goes on as if it had not been."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from ms_controlnet_backend.demo.training import data, loop, parts


def _train(folder, stop=None):
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"net": torch.nn.Linear(3, 2)})
    run = loop.Run(folder, "line", net, steps=12, rate=0.1, decay=0.9)
    saved = []

    def losses(step, generator):
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(4, 3, generator=generator)
        return {"far": (net["net"](x) - x[:, :2]).abs().mean(), "size": 0.01 * net["net"].weight.square().mean()}

    run.train(losses, saved.append)
    return run, net["net"].weight.detach().clone(), saved


def test_a_run_goes_on_where_it_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE", 5)
    monkeypatch.setattr(loop, "EVERY", 5)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    expected, weight, saved = _train(whole)
    assert saved == [5, 10, 12]
    with pytest.raises(KeyboardInterrupt):
        _train(broken, stop=8)
    found, again, saved = _train(broken)
    assert saved == [10, 12]
    assert (weight == again).all() and (expected.averaged["net"].weight == found.averaged["net"].weight).all()
    assert (expected.averaged["net"].weight != weight).any()
    lines = [json.loads(line) for line in expected.log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 12] and set(lines[0]) == {"step", "far", "size"}
    assert expected.log.read_text() == found.log.read_text()


def test_words_of_captions_are_tokens():
    tokenizer = parts.make_tokenizer()
    text = "a drawing of a striped red circle next to an orange star on a fading black background"
    assert [t.removesuffix("</w>") for t in tokenizer.tokenize(text)] == text.split()
    assert "".join(tokenizer.tokenize("wombat")) == "wombat</w>" and len(tokenizer.tokenize("wombat")) > 1


def test_control_pictures_survive_packing(tmp_path):
    drawn = data.pictures(tmp_path, 3)
    vae = parts.make_autoencoder().eval()
    found = data.encoded(tmp_path, drawn, vae, parts.make_tokenizer())
    from ms_controlnet_backend.demo import scenes

    for seed in range(3):
        mask = torch.tensor(list(scenes.mask_map(scenes.sample(seed)).convert("L").get_flattened_data())) > 127
        assert (data.unpacked(found["masks"][[seed]])[0, 0].flatten() == mask).all() and mask.any()
    assert found["things"].tolist() == [len(scenes.sample(seed).things) for seed in range(3)]
    assert found["latents"].shape == (3, 4, 16, 16) and found["ids"].shape == (3, data.CAPTIONS, parts.TOKENS)


@pytest.mark.timeout(600)
def test_every_stage(tmp_path):
    """One command; what it writes loads and draws without a dtype or anything else said."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    command = [sys.executable, "-m", "ms_controlnet_backend.demo.training", tmp_path, "--scenes", "8"]
    command += ["--autoencoder-steps", "2", "--decoder-steps", "2", "--steps", "2"]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("autoencoder-00002.png", "decoder-00002.png", "diffusion-00002.png", "curve.png"):
        assert (tmp_path / name).is_file()
    folder = tmp_path / "checkpoint"
    nets = [ControlNetModel.from_pretrained(folder, subfolder=s) for s in ("controlnet", "controlnet_masks")]
    pipe = StableDiffusionControlNetPipeline.from_pretrained(folder, controlnet=nets)
    assert {m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder, *nets)} == {torch.float32}
    assert pipe.vae.config.scaling_factor != 0.18215 and pipe.scheduler.config.prediction_type == "v_prediction"
