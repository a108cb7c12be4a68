"""``ms-controlnet coverage``: what would be compiled, and in which way."""

import json

import models
import pytest
import torch
from ms_controlnet_backend.compat import diffusers_calls

from ms_controlnet_backend import cli, coverage


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_kind(clean, kind):
    """All components are looked at, and the plans are those that the generated source of the same graph names."""
    pipe = models.pipeline(kind, nets=2)
    found = coverage.cover(pipe, **diffusers_calls.example(pipe, 64))
    labels = {c.label for c in found}
    expected = {"unet", "controlnet.nets.0", "controlnet.nets.1", "text_encoder", "vae.decoder"}
    assert labels == expected | ({"vae.encoder"} if kind != "txt2img" else set())
    assert not any(c.refused for c in found) and all(o.lowering for c in found for o in c.operators)
    unet = next(c for c in found if c.label == "unet")
    conv = next(o for o in unet.operators if o.name == "aten.conv2d.default")
    wide = [m for m in pipe.unet.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1)]
    assert sum(conv.choices.values()) == len(wide) and conv.lowering == "conv.conv2d"
    assert unet.kernels > unet.kernels_once > 0
    text = "\n".join(coverage.lines(found))
    assert "every component is compiled" in text and all(way in text for way in conv.choices)


def test_it_says_what_the_generated_source_says(clean, tmp_path):
    pipe = models.pipeline()
    call = diffusers_calls.example(pipe, 64)
    unet = next(c for c in coverage.cover(pipe, **call) if c.label == "unet")
    clean.enable(pipe, strict=True, cache_dir=str(tmp_path))
    pipe(**call)
    (source,) = tmp_path.rglob("unet*.py")
    lines = [line for line in source.read_text().splitlines() if "aten.conv2d.default (" in line]
    conv = next(o for o in unet.operators if o.name == "aten.conv2d.default")
    assert conv.choices
    assert {way: sum(f"({way}," in line for line in lines) for way in conv.choices} == conv.choices
    calls = [line for line in source.read_text().splitlines() if line.startswith("        ") and " = " in line]
    assert len([line for line in calls if "(" in line and ".part_" not in line and "weights[" not in line]) == (
        unet.kernels + unet.kernels_once
    )


def test_what_cannot_be_compiled(clean):
    from diffusers.models.attention_processor import AttnProcessor2_0

    class Strange(AttnProcessor2_0):
        def __call__(self, *args, **kwargs):
            return torch.special.bessel_j0(super().__call__(*args, **kwargs))

    class Printing(torch.nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    pipe = models.pipeline()
    pipe.unet.set_attn_processor(Strange())
    pipe.vae.decoder.conv_act = Printing()
    found = {c.label: c for c in coverage.cover(pipe, **diffusers_calls.example(pipe, 64))}
    assert "no lowering for aten.special_bessel_j0.default" in found["unet"].refused
    (missing,) = [o for o in found["unet"].operators if o.lowering is None]
    assert missing.name == "aten.special_bessel_j0.default"
    assert "torch.export failed" in found["vae.decoder"].refused
    assert found["controlnet"].refused is None
    text = coverage.lines(list(found.values()))
    assert text[-1] == "left on torch: unet, vae.decoder" and any("NO LOWERING" in line for line in text)


def test_command(tmp_path, capsys):
    models.pipeline().save_pretrained(tmp_path / "model")
    file = tmp_path / "coverage.json"
    assert cli.main(["coverage", "--size", "64", "--json", str(file), str(tmp_path / "model")]) == 0
    assert "every component is compiled" in capsys.readouterr().out
    assert {c["label"] for c in json.loads(file.read_text())} == {"unet", "controlnet", "text_encoder", "vae.decoder"}
    assert cli.main(["coverage", str(tmp_path / "nothing")]) == 2


def test_command_adds_a_controlnet(tmp_path, capsys):
    from diffusers import StableDiffusionPipeline

    pipe = models.pipeline()
    parts = {k: v for k, v in pipe.components.items() if k != "controlnet"}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "model")
    pipe.controlnet.save_pretrained(tmp_path / "net")
    command = ["coverage", "--size", "64", "--controlnet", str(tmp_path / "net"), str(tmp_path / "model")]
    assert cli.main(command) == 0 and "controlnet(" in capsys.readouterr().out
