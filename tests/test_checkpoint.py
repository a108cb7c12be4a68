"""The bundled checkpoint: what it promises, on both backends."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import torch

from ms_controlnet_backend import enable, stats
from ms_controlnet_backend.demo import judge, model, scenes
from ms_controlnet_backend.demo.training import figures

COUNT = 16
FIGURES = {"ids": (534.5, 192.13205), "words": (-0.01338985, 0.7804390), "latents": (-0.136244, 1.6038512),
           "decoded": (-0.2492239, 0.4896289)}  # fmt: skip
"""(mean, standard deviation)"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The figures of 16 of the 200 held-out scenes the README speaks of, on both backends."""
    folder = tmp_path_factory.mktemp("figures")
    return folder, figures.run(model.folder(), folder, COUNT, ["torch", "mindspore"], steps=8)


def test_it_is_small_and_half():
    files = [f for f in model.folder().rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 25e6
    from safetensors import safe_open

    for file in (f for f in files if f.suffix == ".safetensors"):
        with safe_open(file, "pt") as weights:
            dtypes = {weights.get_tensor(k).dtype for k in weights.keys()}  # noqa: SIM118
        assert dtypes == {torch.float32 if file.parent.name == "text_encoder" else torch.float16}, file


def test_all_versions_read_it_alike():
    """Figures of diffusers 0.42 and transformers 5.23; what is not found in a file would be random."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(model.folder(), subfolder="tokenizer")
    ids = tokenizer(["Two dotted zebras! é"], padding="max_length", max_length=48, return_tensors="pt").input_ids
    text = CLIPTextModel.from_pretrained(model.folder(), subfolder="text_encoder")
    vae = AutoencoderKL.from_pretrained(model.folder(), subfolder="vae").float()
    picture = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        latents = vae.encode(picture).latent_dist.mode()
        tensors = {"ids": ids.float(), "words": text(ids)[0], "latents": latents, "decoded": vae.decode(latents).sample}
    found = {name: (t.mean().item(), t.std().item()) for name, t in tensors.items()}
    for name, expected in FIGURES.items():
        assert found[name] == pytest.approx(expected, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("backend", ["torch", "mindspore"])
def test_control_controls(table, backend):
    found = table[1][backend]
    assert found["control"]["edge F1"] >= 0.8 and found["without control"]["edge F1"] <= 0.35
    scales = [found[label]["edge F1"] for label in ("without control", "control, scale 0.5", "control")]
    assert scales == sorted(scales) and scales[0] < scales[1] < scales[2]
    assert found["control"]["background"] >= 0.95
    assert min(found["control"][name] for name in ("shape", "colour")) >= 0.9
    for label in ("control, UniPC", "control, Euler", "edges and masks"):
        assert found[label]["edge F1"] >= 0.75, label
    assert found["guess mode, no words"]["edge F1"] > found["without control"]["edge F1"] + 0.2


@pytest.mark.parametrize("backend", ["torch", "mindspore"])
def test_img2img_stays_close_and_inpainting_outside(table, backend):
    found = table[1][backend]
    assert found["img2img, strength 0.3"]["distance"] < found["img2img, strength 0.9"]["distance"]
    alone = found["autoencoder alone"]
    assert found["img2img, strength 0.3"]["distance"] < 2 * alone["distance"]
    assert found["inpainting"]["outside the hole"] < 1.3 * alone["outside the hole"]


def test_mindspore_draws_what_torch_draws(table):
    ours = table[1]["mindspore"]
    for label, row in table[1]["torch"].items():
        for name, value in row.items():
            margin = 0.02 if name == "edge F1" or name in figures.SHARES else 0.3
            assert ours[label][name] == pytest.approx(value, abs=margin), (label, name)


def test_the_figures_are_files(table):
    folder, found = table
    assert json.loads((folder / "figures.json").read_text()) == {"pictures": COUNT, "figures": found}
    assert "| control |" in (folder / "figures.md").read_text() and (folder / "grid.png").stat().st_size > 1e4


def test_words_say_what_is_drawn_and_negative_ones_what_not(clean):
    """Without control: another colour by another word, and a named colour pushed away."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    enable()
    net = ControlNetModel.from_pretrained(model.folder(), subfolder="controlnet")
    pipe = StableDiffusionControlNetPipeline.from_pretrained(model.folder(), controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    edges = [scenes.edge_map(scenes.draw(scenes.sample(figures.HELD_OUT)))]

    def draw(prompt, **more):
        call = dict(num_inference_steps=8, guidance_scale=3.0, generator=torch.Generator().manual_seed(0))
        return np.asarray(pipe([prompt], edges, **call | more).images[0], float)

    def far(picture, colour):
        """Of the background from a colour."""
        return np.abs(picture[:8, :8].reshape(-1, 3).mean(0) - scenes.COLOURS[colour]).max()

    for colour in ("red", "green"):
        assert far(draw(f"a white shape on a {colour} background"), colour) < 40
    plain = draw("a white shape")
    chosen = judge.look(PIL.Image.fromarray(plain.astype(np.uint8)))[1]
    assert far(plain, chosen) < 40
    assert far(draw("a white shape", negative_prompt=[f"a white shape on a {chosen} background"]), chosen) > 60
    assert stats()["unet"].calls == 32 and not sum(s.fallbacks for s in stats().values())
