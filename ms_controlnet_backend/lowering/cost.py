"""What a way of computing something is expected to take on CPU, to choose the cheapest.

The rates are measured ones (2 cores of an x86-64 with AVX-512); what matters is their proportion, and that little: with
products 8 times slower or memory 4 times faster, what they choose for Stable Diffusion's convolutions is expected to
take at most 2 % longer than the best (``tests/lowering/test_cost.py``). So they stand for other processors, too; none
was measured. Memory has a price as well: a way that keeps another copy of a weight must earn it, and all copies
together are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

FLOPS = 250e9
"""of large matrix products, a second"""
BYTES = 20e9
"""read and written by everything else, a second"""
LAUNCH = 15e-6
"""seconds of a kernel that does nothing"""
KEPT_BYTES = 10e9
"""bytes of prepared weights worth a second of every call"""
KEPT_SHARE, KEPT_LEAST = 0.25, 64 * 2**20
"""Most that the prepared weights of a component take together, as a share of its weights in float32; bytes that any
component may take."""


@dataclass(frozen=True)
class Plan:
    """One way: its name, floating-point operations, bytes moved, kernels, bytes of memory kept; build() lowers it.
    arrangement: of the weight in the memory kept, as of ``Builder.prepared``."""

    name: str
    flops: float
    moved: float
    kernels: int
    kept: float
    build: Callable[[], Any]
    arrangement: Any = None

    @property
    def seconds(self) -> float:
        return self.flops / FLOPS + self.moved / BYTES + self.kernels * LAUNCH


class Kept:
    """The prepared weights of a component. Those that other graphs of it keep cost this one nothing, and no weight is
    kept in two arrangements; of further ones, first come, first served, as many as KEPT_SHARE admits.

    weights: the component's. held: id of a weight → {arrangement: bytes}, what other graphs keep of it."""

    def __init__(self, weights: Iterable = (), held: Mapping[int, dict] = MappingProxyType({})):
        sizes = {id(w): 4 * w.numel() for w in weights}
        self._held = {i: dict(held.get(i, {})) for i in sizes}
        most = max(KEPT_LEAST, KEPT_SHARE * sum(sizes.values()))
        self._left = most - sum(sum(of.values()) for of in self._held.values())

    def cheapest(self, plans: Iterable[Plan], weight=None) -> Plan:
        """The plan to be built. weight: the one that the plans would keep."""
        held = self._held.setdefault(id(weight), {})
        more = lambda p: 0 if p.arrangement in held else p.kept  # noqa: E731
        possible = [p for p in plans if not more(p) or not held and p.kept <= self._left]
        plan = min(possible, key=lambda p: p.seconds + more(p) / KEPT_BYTES)
        if more(plan):
            self._left -= plan.kept
            held[plan.arrangement] = plan.kept
        return plan
