"""``ms-controlnet export``: MindIR files that give torch's numbers when they are read back."""

import json

import models
import pytest
import torch
from ms_controlnet_backend.compat import mindspore_runtime

from ms_controlnet_backend import cli


@pytest.fixture(scope="module")
def pipe():
    return models.pipeline("img2img")


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    """img2img, which uses the VAE's encoder as well."""
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder)
    return folder


def run(files, inputs):
    """By MindSpore alone."""
    ms = mindspore_runtime.mindspore()
    mindspore_runtime.select_device("cpu")
    cell = ms.nn.GraphCell(ms.load(str(files)))
    with mindspore_runtime.LOCK:
        return [torch.from_numpy(v.asnumpy()) for v in cell(*map(mindspore_runtime.tensor, inputs))]


CALLS = {
    "unet": lambda p, x: [p.unet(*x[:3], down_block_additional_residuals=x[3:-1], mid_block_additional_residual=x[-1],
                                 return_dict=False)[0]],
    "vae.decoder": lambda p, x: [p.vae.decoder(*x)],
    "vae.encoder": lambda p, x: [p.vae.encoder(*x)],
    "text_encoder": lambda p, x: list(p.text_encoder(*x, return_dict=False)),
    "controlnet": lambda p, x: [(o := p.controlnet(*x, return_dict=False)), [*o[0], o[1]]][1],
}  # fmt: skip


def test_read_back(pipe, saved, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["export", "--size", "64", str(saved), str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert f"manifest: {out / 'manifest.json'}" in capsys.readouterr().out
    assert (manifest["format"], manifest["target"]) == (1, "CPU") and manifest["versions"]["mindspore"]
    assert {c["label"] for c in manifest["components"]} == set(CALLS)
    generator = torch.Generator().manual_seed(0)
    for component in manifest["components"]:
        inputs = [
            torch.randint(0, 500, i["shape"], generator=generator)
            if i["dtype"] == "int64"
            else torch.rand(i["shape"], generator=generator)
            for i in component["inputs"]
        ]
        with torch.no_grad():
            expected = CALLS[component["label"]](pipe, inputs)
        got = run(out / component["files"][0], inputs)
        assert [list(g.shape) for g in got] == [o["shape"] for o in component["outputs"]]
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-4, atol=1e-4 * e.abs().max().item())


def test_for_ascend(saved, tmp_path):
    assert cli.main(["export", "--size", "64", "--target", "Ascend", str(saved), str(tmp_path / "out")]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["target"], manifest["npu"]) == ("Ascend", "910B")
    for component in manifest["components"]:
        assert all((tmp_path / "out" / f).is_file() for f in component["files"])
        floats = {i["dtype"] for i in component["inputs"] + component["outputs"] if "float" in i["dtype"]}
        assert floats <= {"float16", "float32"} and "float16" in floats
    ids = next(c for c in manifest["components"] if c["label"] == "text_encoder")["inputs"][0]
    assert (ids["dtype"], ids["script_dtype"]) == ("int32", "int64")


def test_what_cannot_be_exported(clean, tmp_path):
    from ms_controlnet_backend.compat import diffusers_calls

    from ms_controlnet_backend.errors import Refused
    from ms_controlnet_backend.export import export
    from ms_controlnet_backend.runtime.target import Target

    class Printing(torch.nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    pipe = models.pipeline()
    pipe.vae.decoder.conv_act = Printing()
    with pytest.raises(Refused, match="vae.decoder: torch.export failed"):
        export(pipe, tmp_path / "out", Target("CPU"), **diffusers_calls.example(pipe, 64))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_no_such_model(tmp_path):
    assert cli.main(["export", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
