"""Host overhead: the time of a denoising step of the tiny pipeline, torch and MindSpore in turn in one process.

    python tests/benchmarks/tiny_step.py [--size 16] [--steps 20] [--rounds 9]

Prints the median step of each, the median of the ratios of neighbouring rounds, and what the freshness check takes
where it is made, between graphs (in a loop of its own it finds everything in the cache, and takes a fourth of that).
"""

import argparse
import collections
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=16, help="of the picture; its latents are half that")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    import models

    import ms_controlnet_backend
    from ms_controlnet_backend.runtime.snapshot import Snapshot

    pipe = models.pipeline()
    ms_controlnet_backend.enable(pipe, strict=True)
    checks = collections.defaultdict(list)
    same = Snapshot.same

    def timed(snapshot: Snapshot) -> bool:
        started = time.perf_counter()
        fresh = same(snapshot)
        checks[id(snapshot)].append(time.perf_counter() - started)
        assert fresh
        return fresh

    Snapshot.same = timed

    def steps(backend: str) -> float:
        """The median seconds between two steps of one run."""
        ends = []

        def watch(pipe, step, timestep, tensors):
            ends.append(time.perf_counter())
            return tensors

        picture = models.picture(1, options.size)
        with (
            ms_controlnet_backend.using(backend, strict=True)
            if backend == "mindspore"
            else (ms_controlnet_backend.using(backend))
        ):
            pipe(**models.call_kwargs(num_inference_steps=options.steps, callback_on_step_end=watch, image=picture,
                                      height=options.size, width=options.size, output_type="latent"))  # fmt: skip
        return statistics.median(b - a for a, b in zip(ends, ends[1:]))

    for backend in ("torch", "mindspore"):
        for _ in range(6):  # compile; until MindSpore's kernels have settled on their numbers of threads
            steps(backend)
    checks.clear()
    rounds = [(steps("torch"), steps("mindspore")) for _ in range(options.rounds)]
    torch_s, ms_s = (statistics.median(side) for side in zip(*rounds))
    print(f"step at {options.size} px: torch {torch_s * 1e3:.1f} ms, MindSpore {ms_s * 1e3:.1f} ms, "
          f"median of ratios {statistics.median(m / t for t, m in rounds):.2f}")  # fmt: skip
    in_steps = [c for c in checks.values() if len(c) >= options.rounds * options.steps]  # not the text encoder's
    assert len(in_steps) == 2
    check = sum(map(statistics.median, in_steps))
    print(f"freshness check: {check * 1e3:.2f} ms a step, {100 * check / torch_s:.1f} % of torch's step, "
          f"{100 * check / ms_s:.1f} % of MindSpore's")  # fmt: skip


if __name__ == "__main__":
    main()
