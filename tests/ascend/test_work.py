"""What a program is counted to do, what is predicted from it, and the command that shows both."""

import json

import models
import pytest
import torch
from ascend import cases, graphs
from ascend.graphs import lowered
from torch.utils.flop_counter import FlopCounterMode

from ms_controlnet_backend import cli
from ms_controlnet_backend.lowering.ascend import npu
from ms_controlnet_backend.lowering.ascend.work import Work, work
from ms_controlnet_backend.lowering.samples import T

aten = torch.ops.aten


@pytest.mark.parametrize("name", ["unet", "controlnet", "text_encoder", "xl unet"])
def test_operations_are_those_torch_counts(name):
    """Matrix products, convolutions and attention; heads unpadded, which torch does not do."""
    component, args, kwargs = cases.TINY[name]()
    made = graphs.graph(component, args, kwargs, without={"padded_projections", "attention"})
    counter = FlopCounterMode(display=False)
    with counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        graphs.in_float32(component, args, kwargs)
    assert sum(w.matrix for w in work(made.program)) == counter.get_total_flops() > 1e5


def test_attention_counts_as_its_products():
    heads = T((2, 3, 64, 16)), T((2, 3, 7, 16)), T((2, 3, 7, 16))
    fused, plain = (lowered(aten.scaled_dot_product_attention.default, heads, {}, torch.float16, w)[0]
                    for w in ((), ("attention",)))  # fmt: skip
    operations = [sum(w.matrix for w in work(p)) for p in (fused, plain)]
    assert operations == [4 * 2 * 3 * 64 * 7 * 16] * 2


def test_bytes_are_operands_and_results():
    args = (T((2, 3, 8, 8)), T((5, 3, 3, 3), weight=True), T((5,), weight=True), [1, 1], [1, 1])
    (conv,) = work(lowered(aten.conv2d.default, args, {}, torch.float16)[0])
    assert conv.moved == 2 * (2 * 3 * 64 + 5 * 3 * 9 + 5 + 2 * 5 * 64)
    (look_up,) = work(
        lowered(aten.embedding.default, (T((99, 4), weight=True), T((2, 3), kind="int")), {}, torch.float32)[0]
    )
    assert look_up.moved == 2 * 2 * 3 * 4 * 4  # not the whole table


def test_prediction():
    peak = npu.NPUS["910B"]
    computing = Work("mint.nn.functional.linear", 1e12, 0, 1e6, "float16")
    moving = Work("Add", 0, 1e8, 3e9, "float16")
    p = npu.predict([computing, moving], "910B")
    assert p.operations == pytest.approx(1e12 / (peak.flops * npu.EFFICIENCY))
    assert p.memory == pytest.approx(3e9 / (peak.memory * npu.EFFICIENCY))
    assert p.seconds == pytest.approx(p.operations + p.memory + 2 * npu.LAUNCH)
    single = Work("MatMul", 1e12, 0, 1e6, "float32")
    assert npu.predict([single], "910B").operations > 2 * p.operations
    for slower in ("910B4", "910", "310P"):
        assert npu.predict([computing, moving], slower).seconds > p.seconds
    with pytest.raises(KeyError):
        npu.predict([], "H100")


def test_command(tmp_path, capsys):
    models.pipeline().save_pretrained(tmp_path / "model")

    def cover(*options):
        file = tmp_path / "coverage.json"
        command = ["coverage", "--size", "64", "--target", "Ascend", *options, "--json", str(file)]
        assert cli.main([*command, str(tmp_path / "model")]) == 0
        return capsys.readouterr().out, {c["label"]: c for c in json.loads(file.read_text())}

    text, found = cover("--npu", "310P")
    assert "ms predicted on 310P" in text and "PREDICTED, not measured" in text and "every component" in text
    assert set(found) == {"unet", "controlnet", "text_encoder", "vae.decoder"}
    unet = found["unet"]
    assert unet["flops"] > 1e6 and unet["bytes"] > 1e6 and set(unet["predicted"]) == set(npu.NPUS)
    attention = next(o for o in unet["operators"] if "scaled_dot_product" in o["name"])
    assert attention["choices"] == {"PromptFlashAttention": 8}
    _, plain = cover("--without", "attention,add_layer_norm")
    assert plain["unet"]["kernels"] > unet["kernels"]
    _, single = cover("--dtype", "float32")
    assert single["unet"]["bytes"] > 1.5 * unet["bytes"]
    assert cli.main(["coverage", "--target", "Ascend", "--npu", "H100", str(tmp_path / "model")]) == 2
