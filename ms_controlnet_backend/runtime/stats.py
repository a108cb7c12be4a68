"""What was done for a component: the numbers that ``stats()`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch

from .transfers import Crossings


@dataclass
class Stats(Crossings):
    """calls: answered by a graph, or by graphs of parts. seconds: in them, compilation not counted. compiles,
    compile_seconds: captures and compilations, first run included. prologue_runs: how often what is constant over the
    steps was computed. skipped: calls not run because their output is zero. evicted: graphs dropped, too many being
    kept. fallbacks: calls answered by torch. watched: those that torch answered because somebody watched
    (:mod:`.watched`), which are no fallbacks. to_device, to_host and their bytes: tensors that crossed, weights not
    counted. bytes_released: torch's memory of weights given up (``release_host_weights``).

    Of a component that is not taken whole: parts: its graphs. part_calls: answered by them. python_seconds: between
    them. left: module → why it is in none. parameters, compiled_parameters: numbers in its weights, and of these in
    graphs; also of one that is taken whole."""

    calls: int = 0
    seconds: float = 0.0
    compiles: int = 0
    compile_seconds: float = 0.0
    prologue_runs: int = 0
    skipped: int = 0
    evicted: int = 0
    fallbacks: int = 0
    watched: int = 0
    bytes_released: int = 0
    parts: int = 0
    part_calls: int = 0
    python_seconds: float = 0.0
    parameters: int = 0
    compiled_parameters: int = 0
    left: dict[str, str] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Of the parameters that is compiled."""
        return self.compiled_parameters / max(1, self.parameters)

    @property
    def share_of_seconds(self) -> float:
        """Of the time in the component, compilation not counted, that graphs took."""
        return self.seconds / (self.seconds + self.python_seconds) if self.seconds else 0.0

    def __add__(self, other: Stats) -> Stats:
        names = [f.name for f in fields(self) if f.name != "left"]
        total = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Stats(**total, left=self.left | other.left)


def measure(components) -> None:
    """Bring the counts of parameters and parts up to date. components: module → Component, of all that are alive."""
    whole = [(m, c) for m, c in components.items() if c.is_whole]
    for _, component in whole:
        component.stats.parameters = component.stats.compiled_parameters = component.stats.parts = 0
    for module, component in whole:
        component.stats.parameters += _count(module)
        compiled, parts = _compiled(module, components)
        component.stats.compiled_parameters += compiled
        component.stats.parts += parts


def _compiled(module, components) -> tuple[int, int]:
    """(numbers in weights of graphs, graphs that are parts)."""
    component = components.get(module)
    if component is None:
        return 0, 0
    if not component.parts.active:
        return (_count(module) if component.compiled else 0), int(component.compiled and not component.is_whole)
    found = [_compiled(m, components) for m in component.parts.modules()]
    return sum(f[0] for f in found), sum(f[1] for f in found)


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
