"""Other NPUs than the 910B, and the second of two."""

from __future__ import annotations

import models
import parity
import pytest
import torch
from ascend.software import test_pipelines

pytestmark = pytest.mark.long
ATTENTION = {"Ascend910B2": "aclnnFlashAttentionScore", "Ascend310P3": "aclnnPromptFlashAttentionV3",
             "Ascend910B4": "aclnnPromptFlashAttentionV3", "Ascend910A": None}  # fmt: skip
"""None: products and a softmax."""


def machines():
    return [pytest.param(soc, marks=pytest.mark.npu(soc=soc)) for soc in ATTENTION]


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("soc", machines())
def test_an_npu(clean, npu, soc, kind):
    """Attention is the kernel of that NPU's."""
    parity.assert_same(models.pipeline(kind, nets=2), lambda: models.call_kwargs(kind, nets=2))
    npu.reset()
    test_pipelines.test_half_precision_is_as_good_as_torchs(clean, kind, torch.float16)
    kernels = {name for name in npu.report().launches if "Attention" in name}
    assert kernels == ({ATTENTION[soc]} if ATTENTION[soc] else set())


@pytest.mark.npu(devices=2)
def test_the_second_device(clean, npu):
    pipe = models.pipeline()
    clean.enable(pipe, device="ascend:1", strict=True)
    pipe(**models.call_kwargs())
    assert set(npu.report().devices) == {"1"}
    parity.assert_same(pipe, models.call_kwargs, device="ascend:1")
