"""Speed, memory and accuracy at Stable Diffusion 1.5's full size (random weights): torch and others, alternately.

    python tests/benchmarks/speed.py [CONTENDER ...] [--cases step_256,vae_512] [--rounds 5] [--json FILE]

A contender is ``backend[:dtype][@python]``: ``mindspore`` (the default), ``mindspore:float16``, ``torch.compile``,
``mindspore@.venv28/bin/python`` (that interpreter's version of MindSpore). Each is held against ``--baseline`` (torch):
two processes with the same weights and inputs compute in turn, one waiting while the other works. Printed are medians,
the median of the ratios of neighbouring rounds, the same of the rounds before ("early": MindSpore runs most kernels on
one thread in their first five calls, to find out how many threads are best), the first call (capture and compilation
included) with an empty cache folder and in a second process that finds what the first one kept, each process's peak
memory (ru_maxrss, loading included), and the RMS error of the components' outputs against torch in float64.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cases
import numpy as np


class Contender:
    """A process that computes one case when asked to (see ``cases.serve``)."""

    def __init__(self, name: str, case: str, threads: int | None, cache: str):
        spec, _, python = name.partition("@")
        backend, _, dtype = spec.partition(":")
        environment = os.environ | {"MS_CONTROLNET_CACHE": cache}
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads), "MS_CONTROLNET_THREADS": str(threads)}
        command = [python or sys.executable, cases.__file__, backend, dtype or "float32", case]
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = self._answer()

    def ask(self, what: str) -> dict:
        print(what, file=self._process.stdin, flush=True)
        return self._answer()

    def run(self) -> float:
        return self.ask("run")["seconds"]

    def outputs(self, folder: str) -> list[np.ndarray]:
        path = Path(folder, "outputs.npz")
        self.ask(f"save {path}")
        with np.load(path) as arrays:
            return [arrays[k].astype(np.float64) for k in arrays.files]

    def end(self) -> float:
        """Peak memory in GiB."""
        peak = self.ask("end")["peak_gib"]
        self._process.wait()
        return peak

    def _answer(self) -> dict:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"{self.name} ended with exit code {self._process.wait()}")


def measure(name: str, case: str, options, folder: str) -> tuple[dict, list, list]:
    """The figures of a contender in a case, its outputs and the baseline's."""
    cache = tempfile.mkdtemp(dir=folder)
    sides = [Contender(n, case, options.threads, cache) for n in (options.baseline, name)]
    first = [side.run() for side in sides]
    early, rounds = ([[side.run() for side in sides] for _ in range(n)] for n in (options.warm_up, options.rounds))
    outputs = [side.outputs(folder) for side in sides]
    peaks = [side.end() for side in sides]
    again = Contender(name, case, options.threads, cache)
    again_s = again.run()
    again.end()
    base_s, own_s = (statistics.median(s) for s in zip(*rounds))
    figures = {
        "case": case, "contender": name, "versions": sides[1].about["versions"], "baseline_s": base_s, "s": own_s,
        "ratio": ratio(rounds), "early_ratio": ratio(early), "rounds": rounds, "early_rounds": early,
        "baseline_first_s": first[0], "first_s": first[1], "again_s": again_s,
        "baseline_peak_gib": peaks[0], "peak_gib": peaks[1], "memory_ratio": peaks[1] / peaks[0],
    }  # fmt: skip
    return figures, *outputs


def ratio(rounds: list) -> float:
    """Of the second side's seconds to the first's."""
    return statistics.median(own / base for base, own in rounds) if rounds else float("nan")


def rms(arrays: list[np.ndarray], reference: list[np.ndarray]) -> float:
    """RMS error over all outputs, each relative to its own RMS."""
    relative = [np.mean((a - r) ** 2) / np.mean(r**2) for a, r in zip(arrays, reference, strict=True)]
    return float(np.sqrt(np.mean(relative)))


def accuracy(case: str, options, folder: str) -> list[np.ndarray]:
    exact = Contender("torch:float64", case, options.threads, folder)
    exact.run()
    outputs = exact.outputs(folder)
    exact.end()
    return outputs


def show(results: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    titles = ["case", "contender", "baseline s", "s", "ratio", "early", "first call s", "again s",
              "baseline GiB", "GiB", "ratio", "RMS error", "baseline's", "multiple"]  # fmt: skip
    table = Table(*titles)
    for r in results:
        errors = ["", "", ""]
        if "error" in r:
            errors = [f"{r['error']:.1e}", f"{r['baseline_error']:.1e}", f"{r['error'] / r['baseline_error']:.2f}"]
        figures = [f"{r[k]:.2f}" for k in ("baseline_s", "s", "ratio", "early_ratio", "first_s", "again_s",
                                           "baseline_peak_gib", "peak_gib", "memory_ratio")]  # fmt: skip
        contender = f"{r['contender'].partition('@')[0]}, MindSpore {r['versions']['mindspore']}"
        table.add_row(r["case"], contender, *figures, *errors)
    Console(width=170).print(table)
    for versions in dict.fromkeys(json.dumps(r["versions"]) for r in results):
        print(versions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="*", default=["mindspore"])
    parser.add_argument("--baseline", default="torch")
    parser.add_argument("--cases", default=",".join(cases.CASES), help="of %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=5, help="rounds before those")
    parser.add_argument("--threads", type=int, help="of every process (default: one a core)")
    parser.add_argument("--no-accuracy", action="store_true", help="leave out the runs in float64")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for case in options.cases.split(","):
            measured = [measure(name, case, options, folder) for name in options.contenders]
            exact = None if options.no_accuracy or not cases.CASES[case].exact else accuracy(case, options, folder)
            for figures, base, own in measured:
                if exact is not None:
                    figures |= {"error": rms(own, exact), "baseline_error": rms(base, exact)}
                results.append(figures)
                print(f"{case} {figures['contender']}: {figures['s']:.2f} s, {figures['ratio']:.2f} of "
                      f"{options.baseline}'s", file=sys.stderr, flush=True)  # fmt: skip
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))
    show(results)


if __name__ == "__main__":
    main()
