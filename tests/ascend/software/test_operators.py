"""Every lowering on the samples declared beside it, as the user's own ``ms-controlnet verify`` runs them."""

from __future__ import annotations

import pytest
import torch

from ms_controlnet_backend import binding
from ms_controlnet_backend.verify import checks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_operators(clean, npu, tmp_path, dtype):
    engine = binding.build("mindspore", device="ascend", cache_dir=str(tmp_path))
    with npu.set(exact_float32=True):
        found = list(checks.operators(engine, checks.cases(engine.target.device, [dtype])))
    assert not [f for f in found if not f.ok]
    assert len(found) > 300
