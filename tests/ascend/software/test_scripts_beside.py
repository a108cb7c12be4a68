"""Scripts written for CUDA, unmodified, where torch_npu's own ``transfer_to_npu`` makes them the NPU's: their pictures
are those that torch_npu draws alone, and every component is MindSpore's."""

from __future__ import annotations

import numpy as np
import pytest
import script_checkpoints
import test_scripts
from test_scripts import SCRIPTS, Results, source

IN_CI = {"sd_canny_offload"}
XFORMERS = {"sd_canny_xformers", "sd_fp16_variant", "sd_multi_controlnet", "sd_to_cuda_positional_dtype",
            "xl_t2i_adapter"}  # fmt: skip
NOT_THERE = XFORMERS | {"sd_device_map", "sd_faster", "sd_freeu", "sd_textual_inversion"}
"""torch_npu alone cannot run them here: xformers knows no NPU, diffusers no device map "cuda" there, torch.compile
wants Triton's build for Ascend, and the software NPU knows neither complex numbers nor a Cholesky decomposition."""
LEFT = dict.fromkeys(["xl_inpaint", "sd_sequential_offload", "sd_guidance_window"], "layer by layer")
LEFT["sd_group_offload"] = "a hook must see every call"
"""Weights of their UNet are brought a part at a time: torch_npu computes. And what the warning says."""
NAMES = [n for n in SCRIPTS if n not in NOT_THERE]

# torch_npu gives the attention kernel the tiny models' heads as they are
pytestmark = [pytest.mark.torch_npu, pytest.mark.npu(any_head_size=1), pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results(script_checkpoints.write(tmp_path_factory.mktemp("scripts")))


def close(name: str, ours: np.ndarray, theirs: np.ndarray) -> bool:
    """In float16 both round, each in its own places: measured 0.24 on average and 5 at most (0.02 % by more than 4)."""
    if not test_scripts.is_half(name):
        return test_scripts.close(name, ours, theirs)
    off = np.abs(ours - theirs)
    return off.mean() <= 0.4 and (off <= 4).mean() >= 0.999


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in IN_CI else pytest.mark.long) for n in NAMES])
def test_same_pictures(results, name, npu):
    npu.elsewhere = True
    results.run([f"{side}:{source(name)}" for side in ("torch_npu", "beside")], NAMES.index(name))
    alone, ours = (results.report(side, name) for side in ("torch_npu", "beside"))
    assert alone["error"] is None and ours["error"] is None, ours["error"] or alone["error"]
    stats = ours["stats"]
    if name in LEFT:
        assert not stats["unet"]["calls"] and stats["unet"]["fallbacks"]
        assert any(w.startswith("unet stays on torch") and LEFT[name] in w for w in ours["warnings"])
    else:
        assert stats["unet"]["calls"] >= 4 and stats["vae.decoder"]["calls"] >= 1
        excused = test_scripts.ON_TORCH.get(name, {})
        assert {label for label, s in stats.items() if s["fallbacks"]} == set(excused), ours["warnings"]
        assert len(ours["warnings"]) == len(excused), ours["warnings"]
    drawn, expected = results.pictures("beside", name), results.pictures("torch_npu", name)
    assert drawn.keys() == expected.keys() and expected
    for file, picture in expected.items():
        assert picture.std() > 10 and close(name, drawn[file], picture), file
