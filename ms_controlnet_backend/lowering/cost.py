"""What a way of computing something is expected to take on CPU, to choose the cheapest.

The rates are measured ones (2 cores with AVX-512); what matters is their proportion. Memory has a price as well:
a way that keeps another copy of a weight must earn it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

FLOPS = 250e9
"""of large matrix products, a second"""
BYTES = 20e9
"""read and written by everything else, a second"""
LAUNCH = 15e-6
"""seconds of a kernel that does nothing"""
KEPT_BYTES = 4e9
"""bytes of prepared weights worth a second of every call"""


@dataclass(frozen=True)
class Plan:
    """One way: its name, floating-point operations, bytes moved, kernels, bytes of memory kept; build() lowers it."""

    name: str
    flops: float
    moved: float
    kernels: int
    kept: float
    build: Any

    @property
    def seconds(self) -> float:
        return self.flops / FLOPS + self.moved / BYTES + self.kernels * LAUNCH

    @property
    def price(self) -> float:
        return self.seconds + self.kept / KEPT_BYTES


def cheapest(plans: Iterable[Plan]) -> Plan:
    return min(plans, key=lambda plan: plan.price)
