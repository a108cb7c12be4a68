"""Scripts written for CUDA and for torch_npu: the picture of plain torch on the CPU, from MindSpore."""

import subprocess
import sys
import threading

import models
import numpy as np
import parity
import pytest
import torch

COMMAND = [sys.executable, "-m", "ms_controlnet_backend.cli"]

# How scripts place a pipeline and seed it. pipe: on the CPU. call: pipe(…) with this generator and these arguments.
STYLES = {
    "to": """
pipe.to("cuda")
images = call(torch.Generator("cuda").manual_seed(0))
""",
    "chosen": """
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
pipe = pipe.to(device=device, dtype=torch.float32)
assert pipe.device == device
images = call(torch.Generator(device=device).manual_seed(0))
""",
    "torch_npu": """
import torch_npu
from torch_npu.contrib import transfer_to_npu
torch.npu.set_device("npu:0")
pipe = pipe.to("npu")
images = call(torch.Generator(device="npu").manual_seed(0))
torch_npu.npu.empty_cache()
""",
    "global seed": """
pipe.to("cuda")
torch.cuda.manual_seed_all(0)
images = call(None)
""",
    "offload": """
pipe.enable_model_cpu_offload()
images = call(torch.Generator("cuda").manual_seed(0))
pipe.maybe_free_model_hooks()
""",
    "sequential offload": """
pipe.enable_sequential_cpu_offload()
images = call(torch.Generator(device="cpu").manual_seed(0))
""",
    "modules": """
for module in (pipe.unet, pipe.controlnet, pipe.vae, pipe.text_encoder):
    module.cuda().to(memory_format=torch.channels_last)
pipe.enable_xformers_memory_efficient_attention()
pipe.vae.enable_xformers_memory_efficient_attention(attention_op=None)
images = call(torch.Generator("cuda").manual_seed(0))
""",
    "autocast": """
pipe.to("cuda", torch.float32)
with torch.autocast("cuda", dtype=torch.float16), torch.inference_mode():
    images = call(torch.Generator("cuda").manual_seed(0))
""",
    "compile": """
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
pipe.to("cuda").unet = torch.compile(pipe.unet, mode="reduce-overhead", fullgraph=True)
pipe.controlnet.compile(mode="max-autotune")
images = call(torch.Generator("cuda").manual_seed(0))
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = False
""",
    "latents": """
pipe.to("cuda")
generator = torch.Generator("cuda").manual_seed(0)
latents = torch.randn((1, 4, 32, 32), generator=generator, device="cuda", dtype=torch.float32)
images = call(generator, latents=latents)
""",
    "default device": """
torch.set_default_device("cuda")
try:
    images = call(torch.Generator("cuda").manual_seed(0))
finally:
    torch.set_default_device(None)
""",
    "device context": """
with torch.device("cuda"):
    images = call(torch.Generator("cuda").manual_seed(0))
""",
    "measured": """
start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
torch.cuda.reset_peak_memory_stats()
start.record()
images = call(torch.Generator("cuda").manual_seed(0))
end.record()
torch.cuda.synchronize()
assert start.elapsed_time(end) > 0 and torch.cuda.max_memory_allocated() > 0
""",
    "slicing and tiling": """
pipe.to("cuda").enable_vae_slicing()
pipe.enable_attention_slicing()
images = call(torch.Generator("cuda").manual_seed(0))
pipe.disable_vae_slicing()
pipe.disable_attention_slicing()
""",
}


@pytest.fixture(scope="module")
def enabled():
    """(a pipeline, plain torch's picture of it, and its picture on MindSpore): enabled until all styles are tried."""
    import ms_controlnet_backend

    ms_controlnet_backend.disable()
    pipe = models.pipeline()
    expected = pipe(**models.call_kwargs()).images
    ms_controlnet_backend.enable(strict=True)
    yield pipe, expected
    ms_controlnet_backend.disable()


def run_style(style: str, pipe):
    def call(generator, **more):
        return pipe(**models.call_kwargs(generator=generator, **more)).images

    names = {"torch": torch, "pipe": pipe, "call": call}
    exec(STYLES[style], names)  # noqa: S102
    return names["images"]


@pytest.mark.parametrize("style", STYLES)
def test_style(enabled, style):
    from ms_controlnet_backend import stats

    pipe, expected = enabled
    calls = stats()["unet"].calls if "unet" in stats() else 0
    images = run_style(style, pipe)
    assert stats()["unet"].calls == calls + 4
    assert stats()["unet"].fallbacks == stats()["controlnet"].fallbacks == 0
    assert abs(images - expected).max() <= parity.PIXELS and expected.std() > 0.01


def test_style_in_a_worker_thread(enabled):
    pipe, expected = enabled
    results = []
    thread = threading.Thread(target=lambda: results.append(run_style("latents", pipe)))
    thread.start()
    thread.join()
    assert abs(results[0] - expected).max() <= parity.PIXELS


SCRIPT = """
import sys
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.utils import load_image
import numpy as np

assert torch.cuda.is_available(), "needs a GPU"
folder, picture, out = sys.argv[1:]
controlnet = ControlNetModel.from_pretrained(folder + "/controlnet", torch_dtype=DTYPE, device_map="cuda")
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    folder, controlnet=controlnet, torch_dtype=DTYPE, safety_checker=None
).to("cuda")
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
pipe.unet = torch.compile(pipe.unet, mode="reduce-overhead", fullgraph=True)
pipe.enable_xformers_memory_efficient_attention()
pipe.enable_model_cpu_offload()
print(f"{torch.cuda.get_device_name()}, {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
generator = [torch.Generator(device="cuda").manual_seed(s) for s in (1, 2)]
with torch.inference_mode(), torch.autocast("cuda"):
    images = pipe(["a house"] * 2, image=load_image(picture), generator=generator, num_inference_steps=4,
                  output_type="np").images
np.save(out, images)
"""


@pytest.fixture
def files(tmp_path):
    """What the script gets: a saved pipeline and a picture."""
    models.pipeline().save_pretrained(tmp_path / "model")
    models.picture(1).save(tmp_path / "picture.png")
    return tmp_path


def run(files, *command, dtype, out="out.npy"):
    script = files / "script.py"
    script.write_text(SCRIPT.replace("DTYPE", dtype))
    arguments = [files / "model", files / "picture.png", files / out]
    done = subprocess.run([*COMMAND, *command, script, *arguments], cwd=files, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr, np.load(files / out)


def test_run(files):
    """On MindSpore, and on plain torch with the calls redirected: the same pictures."""
    out, err, images = run(files, "run", "--strict", "-v", dtype="torch.float32")
    assert "MindSpore on CPU, " in out and "unet compiled" in err and "CUDA and NPU calls are redirected" in err
    assert err.count("enable_model_cpu_offload(): accepted, no effect here") == 1
    out, err, expected = run(files, "run", "--backend", "torch", dtype="torch.float32", out="torch.npy")
    assert out.startswith("torch ")
    assert images.shape == (2, 64, 64, 3) and images.std() > 0.01 and abs(images[0] - images[1]).max() > 0.01
    assert abs(images - expected).max() <= parity.PIXELS


def test_compare(files):
    """Both sides are redirected; half precision on both."""
    out, _, _ = run(files, "compare", "--repeats", "0", dtype="torch.float16")
    assert "same: mindspore draws what torch draws (1 call(s))" in out and "fell back" not in out


def test_not_redirected_on_request(files):
    script = files / "script.py"
    script.write_text("import torch; torch.ones(1, device='cuda')\n")
    for command in ("run", "compare"):
        done = subprocess.run([*COMMAND, command, "--no-redirect", script], cwd=files, capture_output=True, text=True)
        assert done.returncode == 1 and "not compiled with CUDA" in done.stderr
