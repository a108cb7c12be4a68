"""``enable(release_host_weights=True)``: torch's memory of the weights is given up, and nobody notices."""

import copy
import pickle

import models
import parity
import pytest
import torch

import ms_controlnet_backend
from ms_controlnet_backend import binding
from ms_controlnet_backend.hookspecs import Options
from ms_controlnet_backend.runtime.released import ReleasedWeight
from ms_controlnet_backend.runtime.target import Target


@pytest.fixture
def half(clean):
    """(a pipeline whose float16 UNet has run with its weights released, the UNet's twin on torch)."""
    pipe = models.pipeline(unet=models.unet().half())
    twin = copy.deepcopy(pipe.unet)
    clean.enable(pipe, strict=True, release_host_weights=True)
    denoise(pipe.unet)
    return pipe, twin


def latents(pipe, size=16):
    kwargs = models.call_kwargs(height=size, width=size, image=models.picture(1, size), output_type="latent")
    return pipe(**kwargs).images


def denoise(unet, size=8):
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randn(*s, generator=generator).to(unet.dtype) for s in ((2, 4, size, size), (2, 77, 16))]
    with torch.no_grad():
        return unet(inputs[0], 7, inputs[1]).sample


def released(module) -> list[torch.Tensor]:
    return [p for p in module.parameters() if isinstance(p, ReleasedWeight) and p.held.host is None]


def host_bytes(module) -> int:
    return sum(p.nbytes for p in module.parameters() if not isinstance(p, ReleasedWeight))


def assert_close(got, expected):
    """The backend computes float16 scripts in float32, torch on CPU in float16."""
    assert parity.relative_error(got.float(), expected.float()) < 1e-2


def test_memory_is_given_up(half):
    pipe, twin = half
    total = sum(p.nbytes for p in twin.parameters())
    stay = {name for name, p in pipe.unet.named_parameters() if not isinstance(p, ReleasedWeight)}
    # what MindSpore has in another arrangement only: kernels (Winograd's), halves of GEGLU's projections
    rearranged = {name for name, p in twin.named_parameters() if p.shape[2:] == (3, 3) or ".ff.net.0.proj." in name}
    assert stay == rearranged
    assert ms_controlnet_backend.stats()["unet"].bytes_released == total - host_bytes(pipe.unet)
    assert [(n, p.shape, p.dtype, p.device, type(p.requires_grad)) for n, p in pipe.unet.named_parameters()] == [
        (n, p.shape, p.dtype, p.device, type(p.requires_grad)) for n, p in twin.named_parameters()
    ]
    assert all(isinstance(p, torch.nn.Parameter) for p in pipe.unet.parameters())


def test_float32_weights_on_cpu_are_shared_and_stay(clean):
    pipe = models.pipeline()
    clean.enable(pipe, strict=True, release_host_weights=True)
    latents(pipe)
    assert not released(pipe.unet) and ms_controlnet_backend.stats()["unet"].bytes_released == 0


def test_a_device_with_memory_of_its_own(clean, monkeypatch):
    """Emulated on CPU: float32 weights are copied, and released; later calls and another size still agree."""
    from ms_controlnet_backend.backends import mindspore as backend

    engine = backend.build(Options(device="CPU", strict=True, release_host_weights=True))
    engine.target = engine.store._target = engine.transfers.target = Target("CPU", own_memory=True)
    pipe = models.pipeline()
    expected = {size: latents(pipe, size) for size in (16, 24)}
    with binding.on(engine):
        for size in (16, 16, 24, 16):
            assert parity.relative_error(latents(pipe, size), expected[size]) < parity.LATENTS
        assert len(released(pipe.unet)) > 20
        with torch.no_grad():
            pipe.unet.conv_in.bias.mul_(3)
        changed = latents(pipe)
    engine.restore(pipe.unet), engine.restore(pipe.controlnet)
    assert not released(pipe.unet)
    assert parity.relative_error(changed, latents(pipe)) < parity.LATENTS
    assert parity.relative_error(expected[16], changed) > 1e-3


def test_the_values_are_exact(half, tmp_path):
    pipe, twin = half
    held = len(released(pipe.unet))
    for (name, got), expected in zip(pipe.unet.state_dict().items(), twin.state_dict().values()):
        assert torch.equal(got, expected), name
    assert len(released(pipe.unet)) == held  # reading gives nothing back
    pipe.unet.save_pretrained(tmp_path / "released")
    twin.save_pretrained(tmp_path / "twin")
    saved = [(tmp_path / d / "diffusion_pytorch_model.safetensors").read_bytes() for d in ("released", "twin")]
    assert saved[0] == saved[1]
    assert_close(denoise(pipe.unet), denoise(twin))


def test_copies_are_ordinary(half):
    pipe, twin = half
    for made in (copy.deepcopy(pipe.unet), pickle.loads(pickle.dumps(pipe.unet))):
        assert all(type(p) is torch.nn.Parameter for p in made.parameters())
        assert all(torch.equal(a, b) for a, b in zip(made.parameters(), twin.parameters()))
    assert released(pipe.unet)


def by_data(unet):
    unet.mid_block.attentions[0].proj_in.weight.data.mul_(3)


def in_place(unet):
    with torch.no_grad():
        unet.mid_block.attentions[0].proj_in.weight.mul_(3)


def data_assigned(unet):
    weight = unet.mid_block.attentions[0].proj_in.weight
    weight.data = weight.data * 3


def assigned(unet):
    layer = unet.mid_block.attentions[0].proj_in
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 3)


def state_loaded(unet):
    unet.load_state_dict({k: v * 3 if k.endswith("proj_in.weight") else v for k, v in unet.state_dict().items()})


def lora(unet):
    from peft import LoraConfig

    torch.manual_seed(3)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "proj_in"], init_lora_weights=False))


def lora_fused(unet):
    lora(unet)
    unet.fuse_lora()


def fused_projections(unet):
    unet.fuse_qkv_projections()


def to_float(unet):
    unet.float().half()


def all_to_float(unet):
    unet.float()


def grown(unet):
    unet.register_buffer("unused", torch.zeros(3))


CHANGES = [by_data, in_place, data_assigned, assigned, state_loaded, lora, lora_fused, fused_projections, to_float,
           all_to_float, grown]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_changes_are_seen(half, change):
    pipe, twin = half
    before = denoise(pipe.unet)
    change(pipe.unet), change(twin)
    expected = denoise(twin)
    if change not in (to_float, all_to_float, fused_projections, grown):
        assert parity.relative_error(before.float(), expected.float()) > 2e-2
    for _ in range(2):  # what comes back to the host for the change is watched from then on
        assert_close(denoise(pipe.unet), expected)


def test_who_holds_a_weight_keeps_it(clean):
    """A tensor that somebody else refers to is not released: its memory would stay, and it would no longer be ours."""
    pipe = models.pipeline(unet=models.unet().half())
    mine = pipe.unet.time_embedding.linear_1.weight
    clean.enable(pipe, strict=True, release_host_weights=True)
    denoise(pipe.unet)
    assert pipe.unet.time_embedding.linear_1.weight is mine and released(pipe.unet)
    with torch.no_grad():
        mine.mul_(2)
    assert_close(denoise(pipe.unet), parity_on_torch(pipe.unet))


def parity_on_torch(unet):
    with ms_controlnet_backend.using("torch"):
        return denoise(unet)


def test_torch_computes_with_released_weights(half):
    pipe, twin = half
    assert torch.equal(parity_on_torch(pipe.unet), denoise(twin))
    assert released(pipe.unet)


@pytest.mark.parametrize("everything", [True, False])
def test_disable_brings_them_back(half, everything):
    pipe, twin = half
    ms_controlnet_backend.disable(*() if everything else (pipe,))
    assert all(type(p) is torch.nn.Parameter for p in [*pipe.unet.parameters(), *pipe.controlnet.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), twin.parameters()))
    assert torch.equal(denoise(pipe.unet), denoise(twin))
