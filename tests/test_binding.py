"""enable, disable, using: what is taken over, when, and that nothing is left behind."""

import copy
import gc
import pickle
import pkgutil
import threading
import weakref

import models
import parity
import pytest
import torch
from ms_controlnet_backend.compat import cuda_redirection
from torch._subclasses.fake_tensor import FakeTensor


def small_call(pipe):
    return pipe(**models.call_kwargs(num_inference_steps=2)).images


def on_mindspore(b, label="unet") -> int:
    stats = b.stats()
    return stats[label].calls if label in stats else 0


@pytest.fixture(scope="module")
def shared():
    """Components for tests that call disable() (graphs are then compiled again, so: the smallest)."""
    return dict(
        unet=models.unet(), vae=models.vae(), text_encoder=models.text_encoder(), controlnet=models.controlnet()
    )


def traces(pipe):
    """Everything that enabling could leave something on, by identity."""
    import safetensors.numpy  # noqa: F401 - MindSpore imports it, which leaves an attribute on the package
    from diffusers import DiffusionPipeline

    objects = {"pipeline class": DiffusionPipeline, "pipeline": pipe}
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module):
            objects |= {f"{name}.{n}": m for n, m in component.named_modules()}
    for o in list(objects.values()):
        for cls in type(o).__mro__ if not isinstance(o, type) else o.__mro__:
            objects[str(cls)] = cls
    objects |= {"torch": torch, "torch.nn.functional": torch.nn.functional, "Module": torch.nn.Module}
    owners = {line.owner for line in cuda_redirection.table()} - {"sys.modules"}
    objects |= {owner: pkgutil.resolve_name(owner) for owner in owners}
    ignored = {"__abstractmethods__", "_abc_impl", "__annotations__", "__annotations_cache__", "__builtins__"}
    plain = (int, float, str, tuple, list, dict, set, type(None))  # export puts equal ones back
    return {
        n: {k: repr(v) if type(v) in plain else id(v) for k, v in vars(o).items() if k not in ignored}
        for n, o in objects.items()
    }


def test_disable_leaves_nothing(clean, shared):
    pipe = models.pipeline(**shared)
    small_call(pipe)
    gc.collect()
    before = traces(pipe)
    clean.enable(strict=True)
    assert traces(pipe) != before
    small_call(pipe)
    assert on_mindspore(clean)
    clean.disable()
    after = traces(pipe)
    changed = {
        n: {k for k in before[n].keys() | after[n].keys() if before[n].get(k) != after[n].get(k)} for n in before
    }
    assert {n: c for n, c in changed.items() if c} == {}


def test_disable_gives_torchs_result(clean, shared):
    pipe = models.pipeline(**shared)
    reference = small_call(pipe)
    clean.enable(strict=True)
    small_call(pipe)
    clean.disable()
    assert (small_call(pipe) == reference).all()
    assert clean.stats() == {}


def test_enabling_twice_changes_nothing(clean, shared):
    pipe = models.pipeline(**shared)
    clean.enable(strict=True)
    small_call(pipe)
    once = traces(pipe)
    clean.enable(strict=True)
    assert traces(pipe) == once
    small_call(pipe)
    assert clean.stats()["unet"].compiles == 1


def test_before_and_after_the_pipeline_is_built(clean, shared):
    early = models.pipeline(**shared)
    clean.enable(strict=True)
    late = models.pipeline("img2img", **shared)
    small_call(early)
    calls = on_mindspore(clean)
    assert calls
    late(**models.call_kwargs("img2img", num_inference_steps=2))
    assert on_mindspore(clean) > calls


def test_one_pipeline_only(clean, shared):
    pipe, other = models.pipeline(**shared), models.pipeline()
    clean.enable(pipe, strict=True)
    small_call(other)
    assert on_mindspore(clean) == 0
    small_call(pipe)
    assert on_mindspore(clean) == 2
    clean.disable(pipe)
    small_call(pipe)
    assert on_mindspore(clean) == 2


def test_all_but_one_pipeline(clean, shared):
    pipe = models.pipeline(**shared)
    clean.enable(strict=True)
    clean.disable(pipe)
    small_call(pipe)
    assert on_mindspore(clean) == 0
    pipe.controlnet = models.controlnet(50)
    small_call(pipe)
    assert on_mindspore(clean, "controlnet") == 0


def test_components_that_enter_later(clean, shared, tmp_path):
    from diffusers import StableDiffusionControlNetImg2ImgPipeline, StableDiffusionControlNetPipeline

    pipe = models.pipeline(**shared)
    clean.enable(strict=True)
    pipe.controlnet = models.controlnet(50)
    small_call(pipe)
    assert on_mindspore(clean, "controlnet") == 2
    pipe.register_modules(controlnet=models.controlnet(60))
    small_call(pipe)
    assert on_mindspore(clean, "controlnet") == 4
    derived = StableDiffusionControlNetImg2ImgPipeline.from_pipe(pipe)
    derived(**models.call_kwargs("img2img", num_inference_steps=2))
    assert on_mindspore(clean, "controlnet") == 6
    pipe.save_pretrained(tmp_path)
    loaded = StableDiffusionControlNetPipeline.from_pretrained(tmp_path, safety_checker=None)
    small_call(loaded)
    assert on_mindspore(clean, "controlnet") == 8


def test_identity_of_upstream_objects(clean, shared):
    from diffusers import ControlNetModel

    pipe = models.pipeline(**shared)
    net = pipe.controlnet
    keys = list(net.state_dict())
    clean.enable(strict=True)
    assert pipe.controlnet is net and type(net) is ControlNetModel
    assert list(net.state_dict()) == keys and net.dtype is torch.float32 and net.device.type == "cpu"


def test_copies_and_pickles_are_plain(clean, shared):
    """A copy that still ran the original's graph would be silently wrong after its weights change."""
    pipe = models.pipeline(**shared)
    clean.enable(strict=True)
    small_call(pipe)
    calls = on_mindspore(clean)
    twins = copy.deepcopy(pipe.unet), pickle.loads(pickle.dumps(pipe.unet))
    x, text = torch.randn(2, 4, 32, 32), torch.randn(2, 77, 16)
    for twin in twins:
        with torch.no_grad():
            twin.conv_out.weight.zero_(), twin.conv_out.bias.zero_()
            assert not twin(x, 1, text).sample.any()
            assert pipe.unet(x, 1, text).sample.any()
    assert on_mindspore(clean) == calls + len(twins)


def test_using(clean, shared):
    pipe = models.pipeline(**shared)
    small_call(pipe)
    before = traces(pipe)
    with clean.using("mindspore", strict=True):
        small_call(pipe)
        assert on_mindspore(clean) == 2
        with clean.using("torch"):
            small_call(pipe)
        assert on_mindspore(clean) == 2
        small_call(pipe)
    assert on_mindspore(clean) == 4
    assert traces(pipe) == before
    small_call(pipe)
    assert on_mindspore(clean) == 4
    clean.enable(strict=True)
    with clean.using("torch"):
        small_call(pipe)
    assert on_mindspore(clean) == 4


def test_using_ends_with_an_exception(clean, shared):
    pipe = models.pipeline(**shared)
    before = traces(pipe)
    with pytest.raises(ZeroDivisionError), clean.using("mindspore", strict=True):
        1 / 0
    assert traces(pipe) == before


def test_gradients_are_torchs(clean, shared, caplog):
    """Training through an enabled component must not lose its gradients."""
    pipe = models.pipeline(**shared)
    clean.enable()
    x, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 16)
    pipe.unet(x, 1, text).sample.mean().backward()
    assert pipe.unet.conv_in.weight.grad.abs().max() > 0
    assert any("gradients" in r.message for r in caplog.records)
    pipe.unet.zero_grad()


def test_latents_made_with_gradients(clean, shared):
    """A script that encodes a picture itself, outside torch.no_grad(): torch computes, the next call is ours again."""
    pipe = models.pipeline(**shared)
    picture = torch.rand(1, 3, 64, 64)
    expected = pipe.vae.encode(picture).latent_dist.mode()
    clean.enable()
    before = clean.stats().get("vae.encoder")
    latents = pipe.vae.encode(picture).latent_dist.mode()
    assert latents.requires_grad and torch.equal(latents, expected)
    with torch.no_grad():
        again = pipe.vae.encode(picture).latent_dist.mode()
    assert (again - expected).abs().max() < 1e-4 * expected.abs().max()
    now = clean.stats()["vae.encoder"]
    assert now.fallbacks - (before.fallbacks if before else 0) == now.calls - (before.calls if before else 0) == 1


def test_subclass_that_calls_super(clean):
    """A component's class may wrap its parent's forward; it must be taken over once, not twice."""
    from diffusers import ControlNetModel

    class Louder(ControlNetModel):
        def forward(self, *args, **kwargs):
            down, mid = super().forward(*args, **kwargs)
            return [2 * d for d in down], 2 * mid

    net = models.controlnet()
    net.__class__ = Louder
    plain = models.controlnet()
    models.pipeline(controlnet=net), models.pipeline(controlnet=plain)
    args = (torch.randn(1, 4, 32, 32), 1, torch.randn(1, 77, 16), torch.rand(1, 3, 64, 64))
    with torch.no_grad():
        expected = plain(*args, return_dict=False)[1]
        pipes = models.pipeline(controlnet=net), models.pipeline(controlnet=plain)
        clean.enable(strict=True)
        assert parity.relative_error(net(*args, return_dict=False)[1], 2 * expected) < parity.COMPONENT
        assert parity.relative_error(plain(*args, return_dict=False)[1], expected) < parity.COMPONENT
    assert clean.stats()["controlnet"].calls == 2
    del pipes


def test_accelerate_hooks_set_before_enabling(clean, shared):
    """An offloading hook keeps the forward it found; enabling later must still reach it, disabling give it back."""
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    unet = models.unet()
    add_hook_to_module(unet, ModelHook())
    old = unet._old_forward
    pipe = models.pipeline(**shared | {"unet": unet})
    clean.enable(strict=True)
    small_call(pipe)
    assert on_mindspore(clean) == 2
    clean.disable()
    assert unet._old_forward is old
    remove_hook_from_module(unet)


def test_feature_hooks_inside_a_component_see_every_call(clean, shared, caplog):
    pipe = models.pipeline(**shared)
    seen = []
    handle = pipe.unet.mid_block.register_forward_hook(lambda m, a, out: seen.append(out))
    try:
        clean.enable()
        small_call(pipe)
    finally:
        handle.remove()
    assert len(seen) == 2 and not isinstance(seen[0], FakeTensor) and seen[0].isfinite().all()
    (said,) = [r.message for r in caplog.records if "unet runs in" in r.message]
    assert "a hook must see every call (mid_block)" in said
    stats = clean.stats()["unet"]
    assert (stats.calls, stats.fallbacks, stats.share) == (2, 0, 1.0) and stats.parts == stats.compiles > 5
    small_call(pipe)  # hook gone: one graph after all
    after = clean.stats()["unet"]
    assert (after.compiles, after.parts, after.share) == (stats.compiles + 1, 0, 1.0)


def test_threads(clean, shared):
    pipes = [models.pipeline(**shared) for _ in range(2)]
    expected = small_call(pipes[0])
    clean.enable(strict=True)
    results, errors = {}, []

    def work(i):
        try:
            for _ in range(3):
                results[i] = small_call(pipes[i])
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors
    for got in results.values():
        assert abs(got - expected).max() < 1 / 255


def test_a_dropped_pipeline_is_freed(clean):
    """With gigabytes in it, a pipeline that nobody holds must go, enabled or not, compiled or not."""
    clean.enable(strict=True)
    pipe = models.pipeline(nets=2, checker=True)
    pipe(**models.call_kwargs(nets=2, num_inference_steps=1))
    modules = [m for c in pipe.components.values() if isinstance(c, torch.nn.Module) for m in c.modules()]
    gone = [weakref.ref(m) for m in modules]
    weights = [weakref.ref(p) for m in modules for p in m.parameters()]
    del pipe, modules
    gc.collect()
    assert [r() for r in gone if r() is not None] == []
    assert [r() for r in weights if r() is not None] == []


def test_torch_may_trace_an_enabled_module(clean, shared):
    """torch.export of an enabled component sees upstream's operators, not ours."""
    pipe = models.pipeline(**shared)
    args = (torch.randn(1, 4, 32, 32), torch.tensor(1), torch.randn(1, 77, 16))
    clean.enable(pipe)
    with torch.no_grad():
        exported = torch.export.export(pipe.unet, args, strict=False)
        expected = pipe.unet(*args).sample
        assert parity.relative_error(exported.module()(*args).sample, expected) < parity.COMPONENT
    assert clean.stats()["unet"].calls == 1


def test_nested_sites(clean):
    """A plugin may intercept a module inside another intercepted one: captured as part of it, compiled on its own."""
    from ms_controlnet_backend import plugins
    from ms_controlnet_backend.hookspecs import Adapter, Site, hookimpl

    class Plugin:
        @hookimpl
        def register_adapters(self):
            sites = lambda unet, name: [Site(name, unet, ("timestep",)), Site("act", unet.conv_act)]  # noqa: E731
            return [Adapter("unet", lambda c: type(c).__name__ == "UNet2DConditionModel", sites, priority=1)]

    plugin = Plugin()
    plugins.manager().register(plugin)
    try:
        pipe = models.pipeline()
        args = (torch.randn(1, 4, 32, 32), torch.tensor(1), torch.randn(1, 77, 16))
        with torch.no_grad():
            expected = pipe.unet(*args).sample
            clean.enable(pipe, strict=True)
            assert parity.relative_error(pipe.unet(*args).sample, expected) < parity.COMPONENT
            x = torch.randn(2, 3)
            assert torch.allclose(pipe.unet.conv_act(x), torch.nn.functional.silu(x), atol=1e-6)
        assert {k: v.calls for k, v in clean.stats().items()} == {"unet": 1, "act": 1}
    finally:
        plugins.manager().unregister(plugin)
