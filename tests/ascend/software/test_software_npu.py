"""The software NPU by itself: MindSpore's operators compute on it, and what CANN would not take it refuses."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def ms():
    import mindspore

    mindspore.set_device("Ascend", 0)
    return mindspore


def arrays(*shapes, dtype=np.float32):
    random = np.random.RandomState(0)
    return [random.randn(*shape).astype(dtype) for shape in shapes]


def test_eager_and_compiled(ms, npu):
    a, b, c = arrays((5, 7), (7, 9), (5, 9))

    @ms.jit(jit_level="O0", backend="ms_backend")
    def compiled(x, y, z):
        return ms.mint.softmax(ms.mint.matmul(x, y) + z, -1)

    scores = np.exp(a @ b + c)
    expected = scores / scores.sum(-1, keepdims=True)
    tensors = [ms.Tensor(x) for x in (a, b, c)]
    np.testing.assert_allclose(ms.mint.matmul(*tensors[:2]).asnumpy(), a @ b, atol=1e-5)
    for _ in range(2):
        np.testing.assert_allclose(compiled(*tensors).asnumpy(), expected, atol=1e-6)
    assert npu.report().launches["aclnnSoftmax"] == 2


def test_counts(ms, npu):
    (a,) = arrays((16, 16))
    x = ms.Tensor(a)
    ms.mint.exp(x).asnumpy()
    npu.reset()
    x = ms.Tensor(a).move_to("Ascend")
    ms.mint.exp(x).asnumpy()
    found = npu.report()
    assert (found.launches, found.up, found.up_bytes, found.down, found.down_bytes) == (
        {"aclnnExp": 1},
        1,
        1024,
        1,
        1024,
    )
    assert found.peak > 0


@pytest.mark.parametrize(
    ("size", "settings"),
    [(32, {"defer": True}), (48, {"workspace": 4096}), (64, {"defer": True, "workspace": 1 << 20})],
)
def test_the_order_of_a_stream_is_kept(ms, npu, size, settings):
    """MindSpore waits where it must, and gives each launch a workspace for as long as it runs. It keeps executors by
    shape, with the workspace they asked for: another size for each setting."""
    a, b = arrays((size, size), (size, size))
    with npu.set(**settings):
        x, y = ms.Tensor(a), ms.Tensor(b)
        for _ in range(20):
            x = ms.mint.matmul(x, y) * 0.1
        got = x.asnumpy()
    for _ in range(20):
        a = a @ b * np.float32(0.1)
    np.testing.assert_allclose(got, a, atol=1e-6)
    assert npu.report().workspace == settings.get("workspace", 0)


def test_an_unknown_operator_fails_by_name(ms, npu):
    npu.expected = True
    with pytest.raises(RuntimeError, match="aclnnAtan2"):
        ms.mint.atan2(*(ms.Tensor(x) for x in arrays((4,), (4,)))).asnumpy()
    assert npu.report().untaught["aclnnAtan2"]


def test_the_deprecated_route_fails_by_name(ms, npu):
    npu.expected = True
    with pytest.raises(RuntimeError):
        ms.ops.RealDiv()(*(ms.Tensor(x) for x in arrays((4,), (4,)))).asnumpy()
    assert "RealDiv" in npu.report().legacy


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"error": "aclnnExp"}, "aicore error"), ({"error": "aclnnExp", "error_code": 507899}, "aicore error")],
)
def test_an_error_from_a_launch(ms, npu, settings, said):
    npu.expected = True
    with npu.set(**settings), pytest.raises(RuntimeError, match=said):
        ms.mint.exp(ms.Tensor(arrays((4,))[0])).asnumpy()


def test_a_wrong_result(ms, npu):
    (a,) = arrays((4,))
    with npu.set(wrong="aclnnExp"):
        got = ms.mint.exp(ms.Tensor(a)).asnumpy()
    assert abs(got - np.exp(a)).max() > 0.1


def test_hf32_is_seen(ms, npu):
    """MindSpore asks for it in convolutions of float32 where nobody tells it otherwise; the backend does
    (``test_operators.py``)."""
    a, w = arrays((1, 8, 8, 8), (8, 8, 1, 1))
    with npu.set(hf32=True):
        got = ms.mint.nn.functional.conv2d(ms.Tensor(a), ms.Tensor(w)).asnumpy()
    assert abs(got - np.einsum("nchw,kc->nkhw", a, w[:, :, 0, 0])).max() > 1e-3
