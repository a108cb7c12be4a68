"""What a step can take at the least in the way it is computed: its operations and bytes, and this machine's ceilings.

    python tests/benchmarks/floor.py [--size 512]

Stable Diffusion 1.5's ControlNet and UNet, batch 2. Counted are the kernels of a step that are products of matrices, by
their operations, and the others, by what they read and write; softmax and erf apart, whose time is arithmetic. Ceilings
are the best of some rounds of a large product and a large copy (torch's, on as many threads) and of MindSpore's kernels
for softmax and erf.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import cases

sys.path.insert(0, str(Path(__file__).parent.parent))
PRODUCTS = {"MatMul", "BatchMatMul", "own.linear", "own.matmul_bias"}
ARITHMETIC = {"Softmax", "Erf"}
FREE = {"Reshape", "Depend"}


def count(size: int) -> Counter:
    """``products``, ``moved`` and the names in ARITHMETIC → operations, bytes, elements."""
    import torch

    from ms_controlnet_backend import binding
    from ms_controlnet_backend.lowering.liveness import values_in
    from ms_controlnet_backend.lowering.lower import lower_for
    from ms_controlnet_backend.lowering.prologue import split_for
    from ms_controlnet_backend.plugins import registry
    from ms_controlnet_backend.runtime.blank import BlankEngine
    from ms_controlnet_backend.runtime.target import Target

    total: Counter = Counter()

    class Counting(BlankEngine):
        def look(self, captured, constant):
            program = lower_for(self.target, captured, registry())
            for i in split_for(captured, program, constant)[1].instructions:
                results = sum(v.size for v in i.outputs)
                if i.callee in PRODUCTS:
                    inner = i.args[0].shape[-2 if i.attributes.get("transpose_a") else -1]
                    total["products"] += 2 * results * inner
                elif i.callee in ARITHMETIC:
                    total[i.callee] += results
                elif i.callee not in FREE:
                    whole = i.callee.startswith("Reduce")  # others read no more of a tensor than they give
                    read = sum(v.size if whole else min(v.size, results) for v in values_in(i.args))
                    total["moved"] += 4 * (read + results)

    case = cases.step(size)
    pipe = cases.pipeline(case.parts, torch.float32)
    with torch.no_grad(), binding.on(Counting(Target("CPU"))):
        case.call(pipe, torch.float32)()
    return total


def ceilings() -> dict[str, float]:
    """Operations, bytes and elements a second."""
    import torch
    from ms_controlnet_backend.compat import mindspore_runtime

    ms = mindspore_runtime.mindspore()
    mindspore_runtime.select_device("cpu")
    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    source, target = torch.randn(2**25), torch.empty(2**25)
    scores, gates = ms.Tensor(torch.randn(2, 512, 4096).numpy()), ms.Tensor(torch.randn(8192, 1280).numpy() / 3)
    softmax, erf = ms.ops.Softmax(-1), ms.ops.Erf()
    return {
        "products": 2 * n**3 / best(lambda: torch.mm(a, b)),
        "moved": 2 * source.nbytes / best(lambda: target.copy_(source)),
        "Softmax": scores.size / best(lambda: softmax(scores).asnumpy()),
        "Erf": gates.size / best(lambda: erf(gates).asnumpy()),
    }


def best(function, rounds: int = 30) -> float:
    """Seconds. Many rounds: MindSpore's kernels first find out how many threads are best."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="of the picture")
    size = parser.parse_args().size
    wanted, most = count(size), ceilings()
    units = {"products": ("GFLOP", "matrix products"), "moved": ("GB", "passes over memory")}
    seconds = {what: wanted[what] / most[what] for what in most}
    for what, s in seconds.items():
        unit, name = units.get(what, ("G elements", what))
        print(f"{name:20s} {wanted[what] / 1e9:8.1f} {unit:10s} at {most[what] / 1e9:7.1f} a second: {s:5.2f} s")
    print(f"a step at {size} px takes at the least {sum(seconds.values()):.2f} s so")


if __name__ == "__main__":
    main()
