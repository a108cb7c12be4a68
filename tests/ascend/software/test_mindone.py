"""mindone's own Stable Diffusion 1.5 with a ControlNet, counted where test_whole_pipelines_beside.py counts torch_npu
and this project: whole, at full size, in float16, everything but the arithmetic.

    pytest --long -m long -rP tests/ascend/software/test_mindone.py     # prints the table's row

Two things of it want CANN's graph engine, which the software NPU has not: the text encoder, whose weights are brought
to the NPU and which then does not run, and ``cumprod`` of the scheduler's making.
"""

from __future__ import annotations

import models
import pytest
import test_full_size as full
from ascend import cases
from ascend.software.test_whole_pipelines_beside import drawn, row

pytestmark = [pytest.mark.mindone, pytest.mark.long]


@pytest.fixture
def quick(monkeypatch):
    """Weights are zeros: what they are is not computed with."""
    from mindspore.common import initializer

    for name in ("HeUniform", "Uniform", "Normal", "XavierUniform", "TruncatedNormal"):
        monkeypatch.setattr(getattr(initializer, name), "_initialize", lambda self, array: array.fill(0))


def test_mindone(npu, quick, monkeypatch):
    import mindspore as ms
    import numpy as np

    npu.expected = True
    ms.set_device("Ascend", 0)
    with npu.set(skip_from=1 << 10, any_head_size=True, allow_legacy=True):
        pipe = _pipeline(monkeypatch)
        nothing = ms.Tensor(np.zeros((1, 77, 768), np.float16))
        figures = drawn(npu, pipe, prompt_embeds=nothing, negative_prompt_embeds=nothing)
    print("\n" + row("mindone", *figures))
    assert not npu.report().errors


def _pipeline(monkeypatch):
    import mindspore as ms
    import numpy as np
    from mindone import diffusers
    from mindone.transformers import CLIPTextModel

    parts = {}
    for name, make in {"UNet2DConditionModel": cases.sd15_unet, "ControlNetModel": cases.sd15_controlnet,
                       "AutoencoderKL": full.sd15_vae}.items():  # fmt: skip
        parts[name] = getattr(diffusers, name).from_config(dict(cases.empty(make).config))
    parts["text"] = CLIPTextModel(cases.empty(full.sd15_text_encoder).config)
    for cell in parts.values():
        cell.to(ms.float16).set_train(False)
    for p in parts["text"].get_parameters():
        _ = p + 0  # MindSpore brings a weight to the NPU where it is first used
    with monkeypatch.context() as patch:
        patch.setattr(ms.mint, "cumprod", lambda x, dim: ms.Tensor(np.cumprod(x.asnumpy(), dim)))
        scheduler = diffusers.DDIMScheduler.from_config(dict(models.scheduler().config))
    unet, controlnet, vae, text_encoder = parts.values()
    pipe = diffusers.StableDiffusionControlNetPipeline(
        unet=unet, controlnet=controlnet, vae=vae, text_encoder=text_encoder, tokenizer=models.tokenizer(),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, image_encoder=None,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe
