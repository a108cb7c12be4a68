"""Upstream's loaders and adapters, unchanged: after each step the pipeline computes what it computes on torch."""

import filecmp
import inspect
from pathlib import Path

import diffusers
import models
import numpy as np
import original_format
import parity
import pytest
import torch
from test_ip_adapter import PROJECTION, image_encoder
from test_ip_adapter import state_dict as ip_adapter

LINEAR = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


def compiles(clean, label="unet"):
    return clean.stats()[label].compiles


def peft(module, seed, targets=LINEAR, **options):
    """(the weights of a LoRA for the module, its configuration)."""
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False, **options)
    inject_adapter_in_model(config, module, adapter_name="made")
    return {k: v.clone() for k, v in get_peft_model_state_dict(module, adapter_name="made").items()}, config


def write_lora(folder, seed, **options):
    """A LoRA file for UNet and text encoder, as upstream's training scripts write it."""
    unet, unet_config = peft(models.unet(), seed, **options)
    text, text_config = peft(models.text_encoder(), seed + 1, TEXT, **options)
    save = diffusers.StableDiffusionControlNetPipeline.save_lora_weights
    configs = {"unet": unet_config, "text_encoder": text_config}
    metadata = {f"{name}_lora_adapter_metadata": c.to_dict() for name, c in configs.items()}
    known = metadata.keys() & inspect.signature(save).parameters.keys()  # younger than the files themselves
    save(folder, unet_lora_layers=unet, text_encoder_lora_layers=text, **{name: metadata[name] for name in known})
    return folder


@pytest.fixture
def pipe(clean):
    pipe = models.pipeline(image_encoder=image_encoder())
    clean.enable(pipe, strict=True)
    return pipe


def test_lora(pipe, clean, tmp_path):
    """Several, weighted, fused and taken out, hot-swapped, deleted, unloaded; on UNet and text encoder."""
    seen = parity.Seen()
    plain = parity.differs(pipe, seen, models.call_kwargs)
    for i, name in enumerate(("first", "second")):
        pipe.load_lora_weights(write_lora(tmp_path / name, 10 * i), adapter_name=name)
    assert {"unet", "text_encoder"} <= set(pipe.get_list_adapters())
    pipe.set_adapters(["first", "second"], [1.0, 0.5])
    both = parity.differs(pipe, seen, models.call_kwargs)
    before = compiles(clean), compiles(clean, "text_encoder")
    pipe.set_adapters(["first", "second"], [0.2, 0.9])
    parity.differs(pipe, seen, models.call_kwargs)
    pipe.set_adapters(["first", "second"], [{"unet": 0.4, "text_encoder": 0.1}, 0.3])
    parity.differs(pipe, seen, models.call_kwargs)
    assert (compiles(clean), compiles(clean, "text_encoder")) == before
    pipe.set_adapters(["first", "second"], [1.0, 0.5])
    pipe.fuse_lora(adapter_names=["first", "second"])
    assert np.abs(parity.assert_same(pipe, models.call_kwargs)[1] - both).max() < parity.PIXELS
    pipe.unfuse_lora()
    pipe.disable_lora()
    assert np.abs(parity.assert_same(pipe, models.call_kwargs)[1] - plain).max() < parity.PIXELS
    pipe.enable_lora()
    pipe.delete_adapters("second")
    parity.differs(pipe, seen, models.call_kwargs)
    pipe.unload_lora_weights()
    assert np.abs(parity.assert_same(pipe, models.call_kwargs)[1] - plain).max() < parity.PIXELS


def test_hot_swap(pipe, clean, tmp_path):
    """Other weights in the same place: no new graph."""
    seen = parity.Seen()
    unet_only = [peft(models.unet(), seed) for seed in (0, 10)]
    for i, (weights, config) in enumerate(unet_only):
        diffusers.StableDiffusionControlNetPipeline.save_lora_weights(tmp_path / str(i), unet_lora_layers=weights)
    pipe.load_lora_weights(tmp_path / "0", adapter_name="style")
    parity.differs(pipe, seen, models.call_kwargs)
    before = compiles(clean)
    pipe.load_lora_weights(tmp_path / "1", adapter_name="style", hotswap=True)
    parity.differs(pipe, seen, models.call_kwargs)
    assert compiles(clean) == before


def test_dora(pipe, tmp_path):
    seen = parity.Seen()
    parity.differs(pipe, seen, models.call_kwargs)
    pipe.load_lora_weights(write_lora(tmp_path, 20, use_dora=True))
    parity.differs(pipe, seen, models.call_kwargs)
    pipe.fuse_lora()
    parity.assert_same(pipe, models.call_kwargs)


def test_lora_of_a_controlnet(pipe):
    seen = parity.Seen()
    plain = parity.differs(pipe, seen, models.call_kwargs)
    weights, _ = peft(models.controlnet(), 30, [*LINEAR, "conv1"])
    pipe.controlnet.load_lora_adapter(dict(weights), prefix=None, adapter_name="edges")
    for weight in (1.0, 0.4):
        pipe.controlnet.set_adapters(["edges"], [weight])
        parity.differs(pipe, seen, models.call_kwargs)
    pipe.controlnet.fuse_lora()
    parity.assert_same(pipe, models.call_kwargs)
    pipe.controlnet.unfuse_lora()
    pipe.controlnet.delete_adapters("edges")
    assert np.abs(parity.assert_same(pipe, models.call_kwargs)[1] - plain).max() < parity.PIXELS


def test_control_lora(clean):
    """A ControlNet made of a UNet by low-rank changes of its layers, and whole weights of the layers it adds."""
    blocks = dict(layers_per_block=2)  # the format has no others
    pipe = models.pipeline(unet=models.unet(**blocks), controlnet=models.controlnet(**blocks))
    clean.enable(pipe, strict=True)
    seen = parity.Seen()
    parity.differs(pipe, seen, models.call_kwargs)
    pipe.controlnet.load_lora_adapter(original_format.control_lora(pipe.controlnet, 5), prefix=None)
    parity.differs(pipe, seen, models.call_kwargs)
    assert compiles(clean, "controlnet") == 2 and compiles(clean) == 1
    pipe.controlnet.disable_lora()  # the whole weights were written in place and stay
    parity.differs(pipe, seen, models.call_kwargs)


def resampler(seed=70, layers=4, inner=64, hidden=16, width=16, queries=4):
    """The image projection of an "IP-Adapter Plus" checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator) * 0.3  # noqa: E731
    found = {"latents": random(1, queries, width), "proj_in.weight": random(width, hidden),
             "proj_in.bias": random(width), "proj_out.weight": random(width, width), "proj_out.bias": random(width),
             "norm_out.weight": random(width), "norm_out.bias": random(width)}  # fmt: skip
    for i in range(layers):
        found |= {
            f"layers.{i}.0.norm1.weight": random(width), f"layers.{i}.0.norm1.bias": random(width),
            f"layers.{i}.0.norm2.weight": random(width), f"layers.{i}.0.norm2.bias": random(width),
            f"layers.{i}.0.to_q.weight": random(inner, width), f"layers.{i}.0.to_kv.weight": random(2 * inner, width),
            f"layers.{i}.0.to_out.weight": random(width, inner), f"layers.{i}.1.0.weight": random(width),
            f"layers.{i}.1.0.bias": random(width), f"layers.{i}.1.1.weight": random(4 * width, width),
            f"layers.{i}.1.3.weight": random(width, 4 * width),
        }  # fmt: skip
    return found


def full_face(seed=71, width=16):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"proj.0.weight": (width, width), "proj.0.bias": (width,), "proj.2.weight": (width, width),
              "proj.2.bias": (width,), "proj.3.weight": (width,), "proj.3.bias": (width,)}  # fmt: skip
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def face_id(seed=72, width=16):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"proj.0.weight": (2 * PROJECTION, PROJECTION), "proj.0.bias": (2 * PROJECTION,),
              "proj.2.weight": (4 * width, 2 * PROJECTION), "proj.2.bias": (4 * width,), "norm.weight": (width,),
              "norm.bias": (width,)}  # fmt: skip
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("projection", [resampler, full_face, face_id])
def test_ip_adapter_variants(pipe, clean, projection):
    """Plus, full face and FaceID: other projections of the image, or of a face's embedding."""
    seen = parity.Seen()
    parity.differs(pipe, seen, models.call_kwargs)
    state = ip_adapter(pipe.unet) | {"image_proj": projection()}
    pipe.load_ip_adapter([state], subfolder=[""], weight_name=[""])
    if projection is face_id:
        embeds = torch.randn(2, 1, PROJECTION, generator=torch.Generator().manual_seed(1))
        with_image = dict(ip_adapter_image_embeds=[embeds])
    else:
        with_image = dict(ip_adapter_image=models.picture(3))
    parity.differs(pipe, seen, models.call_kwargs, **with_image)
    before = compiles(clean)
    pipe.set_ip_adapter_scale({"down": 0.3, "up": {"block_0": [0.0, 1.0]}})
    parity.differs(pipe, seen, models.call_kwargs, **with_image)
    assert compiles(clean) == before
    pipe.unload_ip_adapter()


def test_textual_inversion(pipe):
    seen = parity.Seen()
    pipe.tokenizer = type(pipe.tokenizer).from_pretrained(_saved_tokenizer(pipe))  # the tests share theirs
    parity.differs(pipe, seen, models.call_kwargs, prompt="a <toy> house")
    generator = torch.Generator().manual_seed(1)
    pipe.load_textual_inversion({"<toy>": torch.randn(16, generator=generator)}, token="<toy>")
    one = parity.differs(pipe, seen, models.call_kwargs, prompt="a <toy> house")
    pipe.load_textual_inversion({"<set>": torch.randn(3, 16, generator=generator)}, token="<set>")
    parity.differs(pipe, seen, models.call_kwargs, prompt="a <set> house")
    assert np.abs(parity.assert_same(pipe, lambda: models.call_kwargs(prompt="a <toy> house"))[1] - one).max() < 1e-3
    pipe.unload_textual_inversion("<set>")
    parity.assert_same(pipe, lambda: models.call_kwargs(prompt="a <toy> house"))


def _saved_tokenizer(pipe):
    import tempfile

    folder = tempfile.mkdtemp()
    pipe.tokenizer.save_pretrained(folder)
    return folder


def test_pipelines_made_of_others(clean):
    """from_pipe and **pipe.components: the components are bound, compiled once, and shared."""
    clean.enable(strict=True)
    pipe = models.pipeline()
    parity.assert_same(pipe, models.call_kwargs)
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    others = {
        "img2img": diffusers.StableDiffusionControlNetImg2ImgPipeline(**parts, requires_safety_checker=False),
        "inpaint": diffusers.StableDiffusionControlNetInpaintPipeline.from_pipe(pipe),
        "txt2img": diffusers.StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=models.controlnet(77)),
    }
    for kind, other in others.items():
        other.set_progress_bar_config(disable=True)
        parity.assert_same(other, lambda kind=kind: models.call_kwargs(kind))
    stats = clean.stats()
    assert stats["unet"].compiles == 1 and stats["controlnet"].compiles == 2  # one a net


SAVING = {
    "plain": (dict(), dict()),
    "bin": (dict(safe_serialization=False), dict()),
    "fp16": (dict(variant="fp16"), dict(variant="fp16", torch_dtype=torch.float16)),
    "shards": (dict(max_shard_size="20KB"), dict()),
    "device map": (dict(), dict(device_map="cpu")),
    "balanced": (dict(), dict(device_map="balanced")),
    "too big for two GPUs": (dict(), dict(device_map="balanced", max_memory={0: "60KB", 1: "80KB"})),
}


@pytest.mark.parametrize("case", SAVING)
def test_saved_and_loaded(clean, tmp_path, case):
    """The files of a pipeline that ran on MindSpore are those of one that ran on torch; what they hold runs."""
    saving, loading = SAVING[case]
    pipe = models.pipeline()
    if case == "fp16":
        pipe.to(torch.float16)
    pipe(**models.call_kwargs(num_inference_steps=1))  # a tokenizer that was used saves how it pads and truncates
    pipe.save_pretrained(tmp_path / "torch", **saving)
    clean.enable(strict=True)
    pipe(**models.call_kwargs(num_inference_steps=1))
    pipe.save_pretrained(tmp_path / "ours", **saving)
    assert_same_files(tmp_path / "torch", tmp_path / "ours")
    assert case != "shards" or list((tmp_path / "ours" / "unet").glob("*-of-*.safetensors"))
    loaded = type(pipe).from_pretrained(tmp_path / "ours", safety_checker=None, **loading)
    loaded.set_progress_bar_config(disable=True)
    for name in ("unet", "controlnet", "vae", "text_encoder"):
        ours, theirs = getattr(loaded, name).state_dict(), getattr(pipe, name).state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert loaded.unet.dtype is pipe.unet.dtype
    if case == "fp16":  # torch computes in float16, we in float32: the same within float16's rounding
        ours = loaded(**models.call_kwargs()).images
        clean.disable()
        assert np.abs(ours - loaded.to(torch.float32)(**models.call_kwargs()).images).mean() < 1 / 255
    else:
        parity.assert_same(loaded, models.call_kwargs)


def assert_same_files(a: Path, b: Path):
    names = sorted(str(p.relative_to(a)) for p in a.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(b)) for p in b.rglob("*") if p.is_file())
    _, different, unreadable = filecmp.cmpfiles(a, b, names, shallow=False)
    assert not unreadable and not different, different
