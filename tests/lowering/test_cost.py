"""The rates that ways are chosen by were measured on one kind of processor: others choose nearly as well with them."""

import types

import pytest

from ms_controlnet_backend.lowering import conv, cost

UNET = [(320, 320, 64), (320, 640, 32), (640, 640, 32), (640, 1280, 16), (1280, 1280, 16), (1280, 1280, 8),
        (2560, 1280, 8), (2560, 1280, 16), (1920, 1280, 16), (1920, 640, 32), (1280, 640, 32), (960, 640, 32),
        (960, 320, 64), (640, 320, 64), (320, 4, 64)]  # fmt: skip
DECODER = [(4, 512, 64), (512, 512, 64), (512, 512, 128), (512, 512, 256), (512, 256, 256), (256, 256, 256),
           (256, 256, 512), (256, 128, 512), (128, 128, 512), (128, 3, 512)]  # fmt: skip
"""(channels, of the result, pixels along a side) of the 3x3 convolutions of Stable Diffusion 1.5"""
BUILDER = types.SimpleNamespace(is_weight=lambda value: True)


def ways(channels, results, size):
    x, weight = (types.SimpleNamespace(shape=s) for s in ((2, channels, size, size), (results, channels, 3, 3)))
    return list(conv._plans(BUILDER, x, weight, None, (1, 1), (1, 1), (1, 1), (size, size)))


def seconds(plan, products, memory):
    return plan.flops / (cost.FLOPS * products) + plan.moved / (cost.BYTES * memory) + plan.kernels * cost.LAUNCH


@pytest.mark.parametrize("products, memory", [(1 / 2, 1), (1 / 4, 1), (1 / 8, 1), (4, 1), (1, 4), (1 / 4, 4)])
def test_other_processors_choose_nearly_as_well(products, memory):
    """products: of matrices, so many times as fast as the rate says; 1/4: of vectors of 128 bits, and not 512."""
    chosen = best = 0
    for shape in UNET + DECODER:
        plans = ways(*shape)
        chosen += seconds(min(plans, key=lambda p: p.seconds + p.kept / cost.KEPT_BYTES), products, memory)
        best += min(seconds(p, products, memory) + p.kept / cost.KEPT_BYTES for p in plans)
    assert chosen < 1.02 * best
