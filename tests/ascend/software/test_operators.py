"""Every lowering on the samples declared beside it, as the user's own ``ms-controlnet verify`` runs them."""

from __future__ import annotations

import pytest
import torch

from ms_controlnet_backend import binding
from ms_controlnet_backend.verify import verify


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_operators(clean, npu, tmp_path, dtype):
    engine = binding.build("mindspore", device="ascend", cache_dir=str(tmp_path))
    with npu.set(exact_float32=True):
        report = verify(engine, dtypes=[dtype])
    assert not [f for f in report.operators if not f.ok]
    assert len(report.operators) > 300
