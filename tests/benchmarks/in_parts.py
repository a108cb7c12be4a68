"""What a UNet costs that a script changed (``tests/patches.py``), so that it is compiled in parts.

    python tests/benchmarks/in_parts.py [--size tiny|256] [--steps 6] [--rounds 3]

Prints for each patch the share of floating-point operations and of parameters that is compiled, in how many parts, the
median seconds of a call (the first three left out) and their ratio to torch's in turn, and the largest error in torch's
largest value. Operators between the parts run on the device too, but count as not compiled.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny", choices=("tiny", "256"))
    parser.add_argument("--steps", type=int, default=6, help="calls a round, each with its own time step and latents")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patches", help="names, with commas between; default: all, and none")
    options = parser.parse_args()
    import patches

    names = options.patches.split(",") if options.patches else ["none", *(p.__name__ for p in patches.PATCHES)]
    head = ("patch", "FLOPs", "parameters", "parts", "first call", "seconds", "torch", "ratio", "error")
    print("{:20} {:>7} {:>11} {:>6} {:>11} {:>9} {:>9} {:>6} {:>9}".format(*head))
    for name in names:
        measure(name, getattr(patches, name, None), options)


def measure(name: str, patch, options) -> None:
    import torch

    import ms_controlnet_backend

    def build():
        pipe = pipeline(options.size)
        if patch is not None:
            patch(pipe)
        return pipe

    ours, theirs = build(), build()
    work = calls(options)
    ms_controlnet_backend.enable(ours)
    seconds: dict = {"ours": [], "theirs": []}
    error = first = 0.0
    with torch.no_grad():
        for n in range(options.rounds + 1):
            for args in work:
                both = {}
                for side, pipe in (("ours", ours), ("theirs", theirs)):
                    started = time.perf_counter()
                    both[side] = pipe.unet(*args, return_dict=False)[0]
                    seconds[side].append(time.perf_counter() - started)
                first = first or seconds["ours"][0]
                difference = (both["ours"] - both["theirs"]).abs().max() / both["theirs"].abs().max()
                error = max(error, float(difference))
    stats = ms_controlnet_backend.stats()["unet"]
    share = compiled_flops(theirs.unet, ours.unet, work[0])
    late = [s[3:] for s in seconds.values()]
    ours_s, theirs_s = map(statistics.median, late)
    ratio = statistics.median(a / b for a, b in zip(*late, strict=True))
    shares = f"{share:7.1%} {stats.share:11.1%} {stats.parts or 1:6}"
    print(f"{name:20} {shares} {first:11.1f} {ours_s:9.4f} {theirs_s:9.4f} {ratio:6.2f} {error:9.1e}", flush=True)
    assert not stats.fallbacks and error < 1e-5
    ms_controlnet_backend.disable()


def pipeline(size: str):
    """With a scheduler, which DeepCache asks for the step."""
    import models
    import test_full_size as full
    import torch

    torch.manual_seed(0)  # the same weights on both sides
    pipe = models.pipeline(unet=models.unet() if size == "tiny" else full.sd15_unet())
    pipe.scheduler.set_timesteps(50)
    return pipe


def calls(options) -> list[tuple]:
    """(latents, time step, text) of each step."""
    import test_full_size as full
    import torch

    side, width = (32, 16) if options.size == "tiny" else (32, 768)
    steps = torch.arange(981, 0, -20)[: options.steps]
    return [(full.random(2, 4, side, side, seed=i), t, full.random(2, 77, width, seed=99)) for i, t in enumerate(steps)]


def compiled_flops(plain, compiled, args) -> float:
    """Of the operations of a call on torch, the share in modules that are compiled, whole or as parts."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from ms_controlnet_backend import binding

    # the fused attention is not counted; written out in products it is
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        plain(*args)
    root = type(plain).__name__
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    (engine,) = binding._engines.values()
    names = {id(m): name for name, m in compiled.named_modules()}

    def inside(module) -> int:
        component = engine._components.get(module)
        if component is None or not (component.parts.active or component.compiled):
            return 0
        if component.parts.active:
            return sum(map(inside, component.parts.modules()))
        name = names[id(module)]
        return flops.get(f"{root}.{name}" if name else root, 0)

    return inside(compiled) / flops[root]


if __name__ == "__main__":
    main()
