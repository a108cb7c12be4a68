"""The table of CUDA and NPU calls: every line does what it says, in every thread, and goes without a trace."""

import contextlib
import copy
import logging
import pickle
import pkgutil
import re
import subprocess
import sys
import threading
import time
import types
import zipfile

import models
import pytest
import torch
from ms_controlnet_backend.compat import cuda_calls, cuda_redirection, device_arguments, memory_exits

CUDA = torch.device("cuda")  # made before anything is enabled: a real CUDA device


@pytest.fixture
def pipe(make):
    return make()


def cpu(tensor) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu"


# Every line of the table → calls that are True where it works. D: each of the devices below.
DEVICES = ["cuda", "cuda:0", "npu", "npu:1", 0, CUDA]
FACTORIES = {
    "torch.arange": "3", "torch.as_tensor": "[1]", "torch.asarray": "[1]", "torch.bartlett_window": "3",
    "torch.blackman_window": "3", "torch.empty": "2", "torch.empty_permuted": "(2, 3), (0, 1)",
    "torch.empty_quantized": None, "torch.empty_strided": "(2,), (1,)", "torch.eye": "2", "torch.fft.fftfreq": "3",
    "torch.fft.rfftfreq": "3", "torch.full": "(2,), 1.0", "torch.hamming_window": "3", "torch.hann_window": "3",
    "torch.kaiser_window": "3", "torch.linspace": "0, 1, 3", "torch.logspace": "0, 1, 3", "torch.ones": "2",
    "torch.rand": "2", "torch.randint": "3, (2,)", "torch.randn": "2", "torch.randperm": "3", "torch.range": "0, 1",
    "torch.scalar_tensor": "1.0", "torch.sparse_bsc_tensor": "[0, 1], [0], [[[1.0]]]",
    "torch.sparse_bsr_tensor": "[0, 1], [0], [[[1.0]]]",
    "torch.sparse_compressed_tensor": "[0, 1], [0], [1.0], layout=torch.sparse_csr",
    "torch.sparse_coo_tensor": "[[0]], [1.0]", "torch.sparse_csc_tensor": "[0, 1], [0], [1.0]",
    "torch.sparse_csr_tensor": "[0, 1], [0], [1.0]", "torch.tensor": "[1]", "torch.tril_indices": "2, 2",
    "torch.triu_indices": "2, 2", "torch.zeros": "2", "torch.empty_like": "x", "torch.full_like": "x, 1.0",
    "torch.ones_like": "x", "torch.rand_like": "x", "torch.randint_like": "x, 3", "torch.randn_like": "x",
    "torch.zeros_like": "x", "torch.Tensor.new_empty": "x, 2", "torch.Tensor.new_empty_strided": "x, (2,), (1,)",
    "torch.Tensor.new_full": "x, (2,), 1.0", "torch.Tensor.new_ones": "x, 2", "torch.Tensor.new_tensor": "x, [1]",
    "torch.Tensor.new_zeros": "x, 2",
}  # fmt: skip
DEVICE_CALLS = {
    "torch.device": ["torch.device(D) == torch.device('cpu')", "isinstance(torch.device(D), torch.device)",
                     "torch.device('npu', 1).type == 'cpu' and torch.device(type='cuda', index=0).type == 'cpu'",
                     "torch.device('meta').type == 'meta' and isinstance('cuda', torch.device | str)"],
    "torch.Generator": ["torch.Generator(D).manual_seed(7).initial_seed() == 7",
                        "torch.Generator(device=D).device.type == 'cpu'",
                        "isinstance(torch.Generator(D), torch.Generator)",
                        "not isinstance(1, torch.Generator)"],
    "torch.get_device_module": ["torch.get_device_module(D).device_count() == 1",
                                "torch.get_device_module('npu') is torch.npu",
                                "torch.get_device_module('cpu') is torch.cpu"],
    "torch.Tensor.to": ["cpu(x.to(D))", "x.to(D, torch.float16).dtype is torch.float16", "cpu(x.to(x.double()))",
                        "x.to(device=D, dtype=torch.float16).dtype is torch.float16", "x.to('meta').is_meta",
                        "x.to(torch.float16).dtype is torch.float16", "x.to(D, non_blocking=True) is x"],
    "torch.Tensor.cuda": ["cpu(x.cuda())", "cpu(x.cuda(0))", "cpu(x.cuda(device=D))",
                          "cpu(next(torch.nn.Linear(1, 1).cuda().parameters()))"],
    "torch.Tensor.npu": ["cpu(x.npu())"],
    "torch.Tensor.pin_memory": ["x.pin_memory() is x"],
    "torch.Tensor.type": ["cpu(x.type('torch.cuda.HalfTensor'))", "x.type() == 'torch.FloatTensor'"],
    "torch.set_default_tensor_type": ["torch.set_default_tensor_type('torch.cuda.FloatTensor') is None"],
    "torch.UntypedStorage.cuda": ["torch.load(saved, map_location=lambda storage, _: storage.cuda(0)).sum() == 3"],
    "torch.nn.Module.to": ["torch.nn.Linear(1, 1).to(D).weight.device.type == 'cpu'",
                           "torch.nn.Linear(1, 1).to(device=D, dtype=torch.half).weight.dtype is torch.half",
                           "torch.nn.Linear(1, 1).to(D, torch.half).weight.dtype is torch.half",
                           "torch.nn.Linear(1, 1, device=D).to(x.half()).weight.dtype is torch.half",
                           "torch.nn.Conv2d(2, 2, 3).to(D, memory_format=torch.channels_last).weight.is_contiguous("
                           "memory_format=torch.channels_last)"],
    "torch.nn.Module.npu": ["torch.nn.Linear(1, 1).npu().weight.device.type == 'cpu'"],
    "torch.utils._device.DeviceContext.__init__": ["default_device(D)"],
    "torch.autocast.__init__": ["autocast(torch.autocast('cuda', torch.float16)) is torch.float32",
                                "autocast(torch.autocast(device_type='npu')) is torch.float32",
                                "autocast(torch.amp.autocast('cuda', dtype=torch.bfloat16)) is torch.float32",
                                "autocast(torch.cuda.amp.autocast()) is torch.float32",
                                "autocast(torch.autocast('cpu'), lambda: torch.autocast('npu')) is torch.bfloat16"],
    "torch.load": ["cpu(torch.load(saved, map_location=D))", "cpu(torch.load(saved, D))", "cpu(torch.load(saved))",
                   "cpu(torch.load(saved_on_cuda))", "cpu(torch.load(saved_on_cuda, {'cuda:0': 'cuda:1'}))",
                   "torch.load(saved, map_location='meta').is_meta"],
    "safetensors.safe_open": ["cpu(safetensors.safe_open(tensors, 'pt', D).get_tensor('x'))",
                              "cpu(safetensors.safe_open(tensors, framework='pt', device=D).get_tensor('x'))"],
    "safetensors.torch.safe_open": ["cpu(safetensors.torch.load_file(tensors, device=D)['x'])",
                                    "cpu(load_file(tensors, D)['x'])"],
}  # fmt: skip
TORCH_CUDA = {
    "is_available": "N.is_available() is True", "device_count": "N.device_count() == 1",
    "is_bf16_supported": "N.is_bf16_supported() is True", "is_initialized": "N.is_initialized() is True",
    "current_device": "N.current_device() == 0", "get_device_name": "N.get_device_name(0) == 'MindSpore on CPU'",
    "get_device_properties": "N.get_device_properties(0).total_memory > N.memory_allocated() > 2**20",
    "get_device_capability": "N.get_device_capability() == (0, 0)", "get_arch_list": "N.get_arch_list() == []",
    "mem_get_info": "0 < N.mem_get_info()[0] < N.mem_get_info()[1]",
    "memory_summary": "'MindSpore on CPU' in N.memory_summary(abbreviated=True)",
    "memory_stats": "N.memory_stats()['allocated_bytes.all.peak'] >= N.memory_allocated()",
    "memory_allocated": "N.memory_allocated('cuda') > 2**20", "memory_reserved": "N.memory_reserved() > 2**20",
    "memory_cached": "N.memory_cached() > 2**20",
    "max_memory_allocated": "N.max_memory_allocated(0) >= N.memory_allocated()",
    "max_memory_reserved": "N.max_memory_reserved() >= N.memory_reserved()",
    "max_memory_cached": "N.max_memory_cached() >= N.memory_cached()",
    "reset_peak_memory_stats": "N.reset_peak_memory_stats() is None",
    "reset_accumulated_memory_stats": "N.reset_accumulated_memory_stats() is None",
    "reset_max_memory_allocated": "N.reset_max_memory_allocated() is None",
    "reset_max_memory_cached": "N.reset_max_memory_cached() is None",
    "empty_cache": "N.empty_cache() is None", "ipc_collect": "N.ipc_collect() is None",
    "set_per_process_memory_fraction": "N.set_per_process_memory_fraction(0.5, 0) is None",
    "init": "N.init() is None", "set_device": "N.set_device('cuda:0') is None",
    "synchronize": "N.synchronize() is None", "set_stream": "N.set_stream(N.Stream()) is None",
    "manual_seed": "N.manual_seed(5) or torch.initial_seed() == 5",
    "manual_seed_all": "N.manual_seed_all(6) or torch.initial_seed() == 6",
    "seed": "N.seed() or N.initial_seed() == torch.initial_seed()",
    "seed_all": "N.seed_all() or N.initial_seed() == torch.initial_seed()",
    "initial_seed": "torch.manual_seed(3) and N.initial_seed() == 3",
    "get_rng_state": "torch.equal(N.get_rng_state('cuda'), torch.get_rng_state())",
    "set_rng_state": "N.set_rng_state(torch.get_rng_state()) is None and forked()",
    "get_rng_state_all": "len(N.get_rng_state_all()) == 1",
    "set_rng_state_all": "N.set_rng_state_all(N.get_rng_state_all()) is None",
    "Event": "timed(N.Event(enable_timing=True), N.Event(enable_timing=True)) > 1",
    "Stream": "N.Stream().query() and N.Stream().record_event().query()",
    "current_stream": "N.current_stream().synchronize() is None",
    "default_stream": "N.default_stream().wait_stream(N.Stream()) is None",
    "stream": "entered(N.stream(N.Stream()))", "device": "entered(N.device(0))",
}  # fmt: skip
PIPELINE_CALLS = {
    "diffusers.DiffusionPipeline.to": ["pipe.to(D) is pipe and pipe.device.type == 'cpu'",
                                       "pipe.to(D, torch.float32).dtype is torch.float32",
                                       "pipe.to(device=D, dtype=torch.float32).dtype is torch.float32",
                                       "pipe.to(torch.float32) is pipe"],
    "diffusers.DiffusionPipeline.from_pretrained": [
        "pipe.from_pretrained(folder, safety_checker=None, device_map=M).device.type == 'cpu'"],
    "diffusers.ModelMixin.from_pretrained": [
        "diffusers.ControlNetModel.from_pretrained(folder / 'controlnet', device_map=D).device.type == 'cpu'",
        "cpu(diffusers.ControlNetModel.from_pretrained(folder / 'controlnet', device_map={'': 0}).conv_in.bias)"],
    "transformers.PreTrainedModel.from_pretrained": [
        "transformers.CLIPTextModel.from_pretrained(folder / 'text_encoder', device_map=M).device.type == 'cpu'",
        "all(map(cpu, transformers.CLIPTextModel.from_pretrained(folder / 'text_encoder', device_map='auto',"
        " max_memory={0: '20KB'}).parameters()))"],
    "diffusers.DiffusionPipeline.enable_model_cpu_offload": [
        "accepted(pipe.enable_model_cpu_offload)", "accepted(pipe.enable_model_cpu_offload, device=D)",
        "accepted(pipe.enable_model_cpu_offload, gpu_id=0)", "pipe.maybe_free_model_hooks() is None"],
    "diffusers.DiffusionPipeline.enable_sequential_cpu_offload": [
        "accepted(pipe.enable_sequential_cpu_offload)", "accepted(pipe.enable_sequential_cpu_offload, 0, D)"],
    "diffusers.DiffusionPipeline.enable_group_offload": ["accepted(pipe.enable_group_offload, onload_device=D)"],
    "diffusers.ModelMixin.enable_group_offload": [
        "accepted(pipe.unet.enable_group_offload, D, use_stream=True)",
        "accepted(pipe.unet.enable_group_offload, torch.device(D), use_stream=True)"],
    "diffusers.hooks.apply_group_offloading": [
        "accepted(diffusers.hooks.apply_group_offloading, pipe.vae, torch.device(D), use_stream=True)"],
    "diffusers.DiffusionPipeline.set_use_memory_efficient_attention_xformers": [
        "accepted(pipe.enable_xformers_memory_efficient_attention)",
        "pipe.disable_xformers_memory_efficient_attention() is None"],
    "diffusers.ModelMixin.set_use_memory_efficient_attention_xformers": [
        "accepted(pipe.unet.enable_xformers_memory_efficient_attention, attention_op=None)"],
    "diffusers.DiffusionPipeline.set_attention_slice": [
        "accepted(pipe.enable_attention_slicing) and not sliced()",
        "accepted(pipe.enable_attention_slicing, 'max') and accepted(pipe.disable_attention_slicing) and not sliced()",
        "not pipe.unet.set_attention_slice(2) and sliced() and accepted(pipe.enable_attention_slicing, 1)"
        " and not sliced()"],
    "diffusers.ModelMixin.set_attention_backend": ["accepted(pipe.unet.set_attention_backend, 'xformers')",
                                                   "accepted(pipe.unet.set_attention_backend, 'native')"],
    "diffusers.DiffusionPipeline.enable_vae_slicing": ["pipe.enable_vae_slicing() or pipe.vae.use_slicing"],
    "diffusers.DiffusionPipeline.disable_vae_slicing": ["pipe.disable_vae_slicing() or not pipe.vae.use_slicing"],
    "diffusers.DiffusionPipeline.enable_vae_tiling": ["pipe.enable_vae_tiling() or pipe.vae.use_tiling"],
    "diffusers.DiffusionPipeline.disable_vae_tiling": ["pipe.disable_vae_tiling() or not pipe.vae.use_tiling"],
    "torch.nn.Module.compile": ["accepted(pipe.unet.compile, mode='max-autotune', fullgraph=True)"],
    "torch.compile": ["torch.compile(pipe.unet, mode='reduce-overhead', fullgraph=True) is pipe.unet",
                      "torch.compile(mode='max-autotune')(entered) is entered"],
}  # fmt: skip
MODULES = {f"sys.modules.{name}": [f"__import__('{name}', fromlist=['x']).__name__ == '{name}'"] for name in (
    "torch_npu", "torch_npu.npu", "torch_npu.npu.amp", "torch_npu.contrib", "torch_npu.contrib.transfer_to_npu"
)}  # fmt: skip


def examples() -> dict[str, list[str]]:
    table = {n: [f"cpu({n}({a}, device=D))"] if a else ["True"] for n, a in FACTORIES.items()}
    table |= DEVICE_CALLS | PIPELINE_CALLS | MODULES
    table |= {f"torch.cuda.{n}": [call.replace("N.", "torch.cuda.")] for n, call in TORCH_CUDA.items()}
    table |= {f"torch.cuda.{n}Tensor": [f"cpu(torch.cuda.{n}Tensor([1]))"] for n in cuda_calls.DTYPES}
    table |= {f"torch.cuda.nvtx.{n}": [f"torch.cuda.nvtx.{n}('x') is None"] for n in ("mark", "range_push")}
    table["torch.cuda.nvtx.range_pop"] = ["torch.cuda.nvtx.range_pop() is None"]
    for name in cuda_calls.SHARED:
        call = TORCH_CUDA[name].replace("N.Stream", "torch.cuda.Stream")
        table[f"torch.accelerator.{name}"] = [call.replace("N.", "torch.accelerator.")]
    table["torch.accelerator.current_accelerator"] = ["torch.accelerator.current_accelerator().type == 'cpu'"]
    table["torch.accelerator.get_memory_info"] = ["0 < torch.accelerator.get_memory_info()[0]"]
    table["torch.accelerator.current_device_index"] = ["torch.accelerator.current_device_index() == 0"]
    npu = [call.replace("N.", "torch.npu.") for call in TORCH_CUDA.values()]
    table["torch.npu"] = [*npu, "autocast(torch.npu.amp.autocast()) is torch.float32",
                          "torch.npu.set_compile_mode(jit_compile=False) is None"]  # fmt: skip
    return table


@pytest.fixture
def names(pipe, tmp_path):
    """What the examples use."""
    import diffusers
    import safetensors.torch
    import transformers

    x = torch.ones(3)
    torch.save(x, tmp_path / "x.pt")
    safetensors.torch.save_file({"x": x}, tmp_path / "x.safetensors")
    # a checkpoint as torch writes it on a machine with CUDA: the storage's place is in the pickle
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "cuda.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                place = pickle.dumps("cpu", 2)[2:-3]  # X, length, "cpu"
                assert place in data
                data = data.replace(place, pickle.dumps("cuda:0", 2)[2:-3])
            new.writestr(name, data)
    pipe.save_pretrained(tmp_path / "pipe")

    def entered(context):
        with context:
            return True

    def autocast(*contexts):
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context() if isinstance(context, types.FunctionType) else context)
            return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    def default_device(device):
        try:
            with device if isinstance(device, torch.device) else torch.device(device):
                inside = torch.ones(1).device.type
            torch.set_default_device(device)
            return inside == torch.get_default_device().type == torch.ones(1).device.type == "cpu"
        finally:
            torch.set_default_device(None)

    def accepted(call, *args, **kwargs):
        return call(*args, **kwargs) is None and not any(hasattr(c, "_hf_hook") for c in pipe.components.values())

    def sliced():
        return any("Sliced" in type(p).__name__ for p in pipe.unet.attn_processors.values())

    def timed(start, end):
        start.record()
        time.sleep(0.002)
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def forked():
        torch.manual_seed(1)
        with torch.random.fork_rng():
            torch.randn(1)
        return torch.equal(torch.randn(1), torch.randn(1, generator=torch.Generator().manual_seed(1)))

    files = {"folder": tmp_path / "pipe", "saved": tmp_path / "x.pt", "saved_on_cuda": tmp_path / "cuda.pt"}
    files |= {"tensors": tmp_path / "x.safetensors"}
    libraries = {"diffusers": diffusers, "transformers": transformers, "load_file": safetensors.torch.load_file}
    return globals() | locals() | files | libraries


def test_every_line_of_the_table(clean, names):
    """Called as a script calls it, with every spelling of the device."""
    assert {str(line) for line in cuda_redirection.table()} == set(examples())
    clean.enable()
    in_force = {str(line) for line in cuda_redirection._replaced}
    wrong = []
    for line, calls in examples().items():
        if line not in in_force:  # not in this version of torch
            continue
        for call in calls:
            for device in DEVICES if re.search(r"\bD\b", call) else [None]:
                for device_map in ("cuda:0", "npu", "balanced") if "=M" in call else [None]:
                    try:
                        result = eval(call, {**names, "D": device, "M": device_map})  # noqa: S307
                    except Exception as error:  # noqa: BLE001
                        result = repr(error)
                    if result is not True and getattr(result, "item", lambda: None)() is not True:
                        wrong.append((call, device, device_map, result))
    assert wrong == [], "\n".join(map(str, wrong))
    assert len(in_force) > 120


def places() -> dict:
    """Whatever the table touches, by identity."""
    owners = {line.owner: pkgutil.resolve_name(line.owner) for line in cuda_redirection.table()}
    found = {o: dict(owner if isinstance(owner, dict) else vars(owner)) for o, owner in owners.items()}
    found["sys.modules"] = {n: m for n, m in sys.modules.items() if n.startswith("torch_npu")}
    return {f"{o}.{n}": id(v) for o, members in found.items() for n, v in members.items()}


@pytest.mark.parametrize("one", [False, True])
def test_disable_puts_everything_back(clean, pipe, one):
    import torch._refs  # noqa: F401 - loaded on first use

    clean.enable()  # what enabling imports is there now
    clean.disable()
    before = places()
    assert "torch.Tensor.to" not in before  # inherited
    other = models.pipeline(**{k: v for k, v in pipe.components.items() if k in ("unet", "vae", "text_encoder")})
    clean.enable(pipe) if one else clean.enable()
    assert {k for k, v in places().items() if before.get(k) != v} > {"torch.Tensor.to", "torch.randn", "torch.npu"}
    pipe.to("cuda")
    torch.randn(1, device="npu")
    if one:
        clean.enable(other)
        clean.disable(pipe)
        assert torch.ones(1, device="cuda").device.type == "cpu"  # the other pipeline's script goes on
        clean.disable(other)
    else:
        clean.disable()
    assert places() == before
    with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
        torch.ones(1, device="cuda")


EXITS = {line.name for line in memory_exits.TABLE}


def test_torch_is_not_redirected_where_cuda_is(clean, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = places()
    clean.enable()
    ours = (k for k in places() if k.endswith("__setattr__") or k.rpartition(".")[2] in EXITS)
    assert places() == before | {k: places()[k] for k in ours}
    clean.enable(redirect=True)  # asked for
    assert torch.ones(1, device="cuda").device.type == "cpu"
    clean.enable(redirect=False)
    assert isinstance(torch.device, type) and type(torch.device) is type
    clean.disable()
    assert places() == before


def test_a_real_torch_npu_is_left_alone(clean, monkeypatch, tmp_path):
    (tmp_path / "torch_npu.py").write_text("REAL = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    clean.enable()
    assert type(torch.device) is type and not hasattr(torch, "npu")
    clean.enable(redirect=True)
    import torch_npu

    assert torch_npu.REAL and not hasattr(torch, "npu")
    del sys.modules["torch_npu"]


def test_using_does_not_redirect_by_itself(clean):
    with clean.using("torch"), pytest.raises((AssertionError, RuntimeError)):
        torch.ones(1, device="cuda")
    clean.enable()
    with clean.using("torch"):
        assert torch.ones(1, device="cuda").device.type == "cpu"


def test_libraries_are_told_the_truth(clean):
    """What they choose by the answer, and remember, must be true after disable() as well."""
    from accelerate.utils import is_cuda_available, is_npu_available
    from diffusers.utils.torch_utils import get_device
    from peft.utils import infer_device
    from transformers.utils import is_torch_cuda_available, is_torch_npu_available

    clean.enable()
    import torch_npu  # noqa: F401

    assert torch.cuda.is_available() and torch.npu.is_available()
    assert not any((is_cuda_available(), is_npu_available(), is_torch_cuda_available(), is_torch_npu_available()))
    assert get_device() == infer_device() == "cpu"


def test_threads_and_names_imported_before(clean):
    from torch import autocast, device

    results = []

    def work():
        with autocast("cuda"):
            results.append(torch.randn(2, device="cuda").to(device("cuda")).cuda())

    thread = threading.Thread(target=work)
    clean.enable()
    thread.start()
    thread.join()
    assert cpu(results[0])


def test_copies_and_pickles(clean):
    plain = pickle.dumps(torch.device("cpu"))
    clean.enable()
    for o in (torch.device("cuda"), torch.float16, torch.ones(2, device="cuda"), torch.nn.Linear(1, 1, device="cuda")):
        for twin in (copy.deepcopy(o), pickle.loads(pickle.dumps(o))):
            assert type(twin) is type(o)
    assert pickle.dumps(torch.device("cuda")) == plain
    assert pickle.loads(pickle.dumps(torch.ones)) is torch.ones
    written = pickle.dumps((torch.device("cuda"), torch.device, torch.Generator, torch.ones))
    clean.disable()
    assert pickle.loads(written) == (torch.device("cpu"), torch.device, torch.Generator, torch.ones)


@pytest.mark.parametrize("strict", [False, True])
def test_export_sees_what_it_saw(clean, strict):
    """torch.export compares some functions by identity: sizes must stay symbolic."""

    class Module(torch.nn.Module):
        def forward(self, x):
            return x + torch.tensor(x.shape[0]) + torch.zeros(1, device=x.device) + x.new_ones(1).to("cpu")

    def export():
        sizes = ({0: torch.export.Dim("size", min=2, max=100)},)
        exported = torch.export.export(Module(), (torch.ones(5),), dynamic_shapes=sizes, strict=strict)
        return str(exported.graph), exported.module()(torch.ones(7))

    graph, result = export()
    clean.enable()
    again, same = export()
    assert (again, same.tolist()) == (graph, result.tolist())


def test_what_has_no_effect_is_logged_once(clean, pipe, caplog):
    clean.enable()
    with caplog.at_level(logging.INFO, "ms_controlnet_backend"):
        for _ in range(3):
            pipe.enable_model_cpu_offload()
            pipe.enable_xformers_memory_efficient_attention()
            torch.compile(pipe.unet).compile()
    lines = [r.getMessage() for r in caplog.records if "no effect here" in r.getMessage()]
    assert [line.split("()")[0] for line in lines] == [
        "enable_model_cpu_offload", "enable_xformers_memory_efficient_attention", "torch.compile", "Module.compile",
    ]  # fmt: skip


def test_upstreams_own_errors_stay(clean, pipe):
    clean.enable()
    with pytest.raises(RuntimeError, match="tpu9"):
        torch.device("tpu9")
    with pytest.raises(RuntimeError, match="tpu9"):
        torch.ones(1, device="tpu9")
    with pytest.raises(ValueError, match="must be one of"):
        pipe.unet.set_attention_backend("nonsense")
    with pytest.raises(ValueError, match="at most two arguments"):
        pipe.to("cuda", torch.float32, 1)
    pipe.enable_model_cpu_offload(device="cpu")  # asked for a device that is there: upstream's own hooks
    assert hasattr(pipe.unet, "_hf_hook")
    pipe.remove_all_hooks()


def test_half_precision_on_cuda_is_not_warned_about(clean, caplog):
    """upstream says that float16 does not run on a CPU; redirected, it does."""
    import diffusers

    diffusers.utils.logging.enable_propagation()
    pipe = models.pipeline()
    clean.enable()
    pipe.to("cuda", torch.float16)
    assert "cannot run with `cpu` device" not in caplog.text
    pipe.to("cpu")
    assert "cannot run with `cpu` device" in caplog.text
    diffusers.utils.logging.disable_propagation()


def test_without_accelerate(tmp_path):
    """enable_model_cpu_offload needs accelerate upstream; here it has nothing to do."""
    code = (
        "import sys; sys.modules['accelerate'] = sys.modules['peft'] = None\n"
        f"sys.path.insert(0, {str(models.__file__).rsplit('/', 1)[0]!r})\n"
        "import ms_controlnet_backend; ms_controlnet_backend.enable()\n"
        "import models; pipe = models.pipeline().to('cuda')\n"
        "pipe.enable_model_cpu_offload(); pipe.enable_sequential_cpu_offload(); print(pipe.device)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "cpu\n", done.stderr


def test_what_is_redirected():
    assert all(map(device_arguments.redirected, DEVICES))
    assert not any(
        map(device_arguments.redirected, ["cpu", "meta", None, True, torch.float16, torch.device("cpu"), 1.0])
    )
