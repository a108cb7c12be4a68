"""Peak memory and time of a full-size SD-1.5 + ControlNet run (random weights) on torch and on MindSpore.

    python tests/benchmarks/peak_memory.py [--size 512] [--steps 2] [--dtype float16] [--release]

Each side runs the same script in a process of its own; the kernel's own figures are printed: the peak (ru_maxrss) and
what the process holds after the run (VmRSS). --release: enable(release_host_weights=True).
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent)]


def child(backend: str, size: int, steps: int, dtype: str, release: bool) -> None:
    import models
    import test_full_size as full
    import torch
    from diffusers import StableDiffusionControlNetPipeline

    import ms_controlnet_backend

    torch.manual_seed(0)
    pipe = StableDiffusionControlNetPipeline(
        vae=full.sd15_vae(), text_encoder=full.sd15_text_encoder(), tokenizer=models.tokenizer(),
        unet=full.sd15_unet(), controlnet=full.sd15_controlnet(), scheduler=models.scheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).to(getattr(torch, dtype))  # fmt: skip
    kwargs = dict(image=models.picture(1, size), height=size, width=size, num_inference_steps=steps, output_type="np")
    if backend == "mindspore":
        ms_controlnet_backend.enable(strict=True, release_host_weights=release)
    started = time.perf_counter()
    image = pipe("a house", generator=torch.Generator().manual_seed(0), **kwargs).images
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    held = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20
    print(json.dumps({"peak_gib": peak, "held_gib": held, "seconds": seconds, "mean": float(image.mean()),
                      "std": float(image.std())}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--release", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.size, options.steps, options.dtype, options.release)
    results = {}
    for backend in ("torch", "mindspore"):
        command = [sys.executable, __file__, "--child", backend, *sys.argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{backend} failed ({done.returncode}):\n{done.stderr[-2000:]}")
        results[backend] = json.loads(done.stdout.strip().splitlines()[-1])
        print(backend, {k: round(v, 4) for k, v in results[backend].items()}, flush=True)
    print(f"peak memory, MindSpore / torch: {results['mindspore']['peak_gib'] / results['torch']['peak_gib']:.2f}")


if __name__ == "__main__":
    main()
