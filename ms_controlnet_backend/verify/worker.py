"""One stage of a verification in a process of its own: a crash, or a call that never returns, ends this process only.

``python -m ms_controlnet_backend.verify.worker REQUEST`` (JSON). What it is at and what it found goes to the file
descriptor that the request names, a JSON list a line: ``["total", n]``, ``["at", name]``, ``["found", finding]`` and at
last ``["end", device]``.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field

from .report import Finding

LOADING = "loading"
"""What a process is at before it says what it is at."""


@dataclass
class Request:
    """stage: one of STAGES. device: as ``enable`` takes it. without: rewrites to leave out. done: what need not be
    tried (again). only: parts of the names of what alone is to be tried, or with ``exactly`` the names; empty: all.
    dtypes: of the operators. model, controlnet, dtype, size: of the pipeline whose components are verified."""

    stage: str
    device: str | None = None
    without: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    exactly: bool = False
    dtypes: list[str] = field(default_factory=list)
    model: str = ""
    controlnet: str | None = None
    dtype: str = "float32"
    size: int = 128
    to: int = 1

    def wants(self, name: str, label: str = "") -> bool:
        """Is that to be tried? label: what it is called in ``done``, if not by its name."""
        asked = name in self.only if self.exactly else any(part in name for part in self.only)
        return (label or name) not in self.done and (asked or not self.only)


def _opened(request: Request, say) -> str:
    """The device takes a tensor, computes with it and gives it back; the first, cheapest stage."""
    import torch

    from .. import binding, plugins
    from .checks import Case, operators

    engine = binding.build("mindspore", device=request.device)
    op = torch.ops.aten.add.Tensor
    sample = plugins.registry().samples(op, engine.target.device)[0]
    [found] = operators(engine, [Case(op, 0, sample, torch.float32)], lambda case: say("at", "the device"))
    found.name = "the device"
    say("found", asdict(found))
    return engine.describe()


def _operators(request: Request, say) -> str:
    import torch

    from .. import binding
    from .checks import cases, operators

    engine = binding.build("mindspore", device=request.device)
    dtypes = [getattr(torch, name) for name in request.dtypes]
    wanted = [c for c in cases(engine.target.device, dtypes) if request.wants(c.name, c.label)]
    say("total", len(wanted))
    for found in operators(engine, wanted, lambda case: say("at", case.label)):
        say("found", asdict(found))
    return engine.describe()


class _Side:
    """The engine, which says whose turn it is, and leaves out what is done."""

    def __init__(self, engine, request: Request, say):
        self._engine, self._request, self._say = engine, request, say

    def component(self, site):
        if not self._request.wants(site.label):
            return None
        handler = self._engine.component(site)

        def call(*arguments):
            self._say("at", site.label)
            return handler(*arguments)

        return call

    def describe(self) -> str:
        return self._engine.describe()


def _components(request: Request, say) -> str:
    from .. import binding
    from ..compat import diffusers_calls, diffusers_pipelines
    from .checks import components

    engine = binding.build("mindspore", device=request.device)
    pipe = diffusers_pipelines.load(request.model, request.controlnet, request.dtype)
    call = diffusers_calls.example(pipe, request.size) | {"num_inference_steps": 3}
    for found in components(engine, pipe, call, _Side(engine, request, say)):
        if request.wants(found.name):
            say("found", asdict(found))
    return engine.describe()


STAGES = {"opened": _opened, "operators": _operators, "components": _components}


def main() -> None:
    request = Request(**json.loads(sys.argv[1]))
    with os.fdopen(request.to, "w") as to:

        def say(*words) -> None:
            print(json.dumps(words), file=to, flush=True)

        if request.without:
            from ..runtime.target import WITHOUT

            os.environ[WITHOUT] = ",".join(filter(None, [os.environ.get(WITHOUT, ""), *request.without]))
        try:
            device = STAGES[request.stage](request, say)
        except Exception as error:  # noqa: BLE001 - whatever is raised is what is looked for
            say("found", asdict(Finding(request.stage, "", False, problem=f"{type(error).__name__}: {error}")))
            device = ""
        say("end", device)


if __name__ == "__main__":
    main()
