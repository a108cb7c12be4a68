"""What MindSpore's kernels make of this CPU."""

from __future__ import annotations

import functools


@functools.cache
def adds_bias_in_products() -> bool:
    """Is FusedMatMulBiasAdd worth it? MindSpore's own pass for it asks for AVX-512."""
    import torch

    return "AVX512" in torch.backends.cpu.get_cpu_capability()
