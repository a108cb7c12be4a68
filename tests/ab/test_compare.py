"""compare(): the same call on two backends."""

import json

import models
import numpy as np
import pytest
import sides
import torch

import ms_controlnet_backend
from ms_controlnet_backend import compare
from ms_controlnet_backend.errors import UnknownBackend

PLACES = ("components", "shadow")


@pytest.fixture(autouse=True)
def _clean(clean):
    """Every test with engines of its own."""


def run(pipe, backends, **kwargs):
    options = dict(repeats=0, progress=False)
    return compare(pipe, backends=backends, **options | models.call_kwargs(num_inference_steps=2) | kwargs)


def failed(report):
    return [check.name for check in report.calls[0].checks if not check.ok]


def plain(label, original, args, kwargs):
    return original(*args, **kwargs)


def test_torch_against_mindspore(make):
    """Everything issue 6 asks to be measured, from one real comparison."""
    pipe = make()
    kwargs = models.call_kwargs()
    report = compare(pipe, repeats=2, shadow=True, progress=False, **kwargs)
    assert report.ok, str(report)
    call = report.to_dict()["calls"][0]
    (picture,) = call["pictures"]
    assert picture["psnr"] > 80 and picture["ssim"] > 0.9999 and picture["off"] == 0
    assert 0 < picture["mean_abs"] <= picture["max_abs"] < 1 / 255
    assert [s["step"] for s in call["steps"]] == [0, 1, 2, 3]
    assert all(0 < s["relative_rms"] < 1e-4 for s in call["steps"]) and call["growth"] > 0
    for key in PLACES:
        entries = call[key]
        assert {e["component"] for e in entries} == {"text_encoder", "controlnet", "unet", "vae.decoder"}
        assert [e["step"] for e in entries if e["component"] == "unet"] == [0, 1, 2, 3]
        assert {e["stage"] for e in entries if e["component"] == "vae.decoder"} == {"after"}
        assert {e["stage"] for e in entries if e["component"] == "text_encoder"} == {"before"}
        assert len({e["output"] for e in entries if e["component"] == "controlnet"}) > 3
    assert call["first_difference"] is None and call["bisect"] is None
    kinds = [(r["backend"], r["kind"]) for r in call["runs"]]
    assert kinds == [("torch", "first"), ("mindspore", "first"), ("mindspore", "measured"), ("torch", "measured"),
                     ("torch", "measured"), ("mindspore", "measured"), ("torch and mindspore", "shadow")]  # fmt: skip
    first, later = call["runs"][1], call["runs"][2]
    assert first["counters"]["compiles"] == 4 and later["counters"]["compiles"] == 0
    assert later["seconds"] < first["seconds"] and first["counters"]["compile_seconds"] < first["seconds"]
    for r in call["runs"][:-1]:
        assert len(r["step_seconds"]) == 4 and min(r["step_seconds"]) > 0
        assert sum(c["seconds"] for c in r["components"].values()) <= r["seconds"]
        assert r["components"]["unet"]["calls"] == 4
        assert r["peak_bytes"] > 2**27 and r["growth_bytes"] >= 0
    assert [e["compiled"] for e in first["timeline"] if e["component"] == "unet"] == [True, False, False, False]
    assert "progress_bar" not in vars(pipe)
    assert "callback_on_step_end" not in kwargs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_passes_and_a_bent_weight_does_not(dtype):
    pipe = models.pipeline().to(dtype=dtype)
    report = run(pipe, ("torch", "mindspore"), shadow=True)
    assert report.calls[0].dtype == str(dtype).removeprefix("torch.")
    assert report.ok, str(report)
    with sides.backend("bent", sides.bent("unet", "conv_in.weight", factor=1.5)):
        assert not run(pipe, ("torch", "bent"), shadow=True).ok


def test_the_same_backend_twice_is_exact_and_the_caller_sees_one_call():
    pipe = models.pipeline()
    kwargs = models.call_kwargs(num_inference_steps=2)
    latents = torch.randn(1, 4, 32, 32)
    once = models.call_kwargs(num_inference_steps=2)
    expected = pipe(**once, latents=latents.clone()).images
    before = latents.clone()
    report = compare(pipe, backends=("torch", "torch"), repeats=2, progress=False, latents=latents, **kwargs)
    assert report.ok and report.sides == ("torch", "torch again")
    assert np.array_equal(report.calls[0].pictures[0].reference, expected[0])
    assert report.calls[0].pictures[0].distance.psnr == float("inf")
    assert json.loads(report.to_json())["calls"][0]["pictures"][0]["psnr"] == "inf"
    assert torch.equal(latents, before)
    assert torch.equal(kwargs["generator"].get_state(), once["generator"].get_state())


def test_what_the_other_side_draws_is_not_left_behind():
    def greedy(label, original, args, kwargs):
        torch.rand(3), torch.rand(3, generator=generator)
        return original(*args, **kwargs)

    pipe, generator = models.pipeline(), torch.Generator()

    def draws_after(call):
        generator.manual_seed(7)
        torch.manual_seed(7)
        call()
        return torch.rand(1).item(), torch.rand(1, generator=generator).item()

    alone = draws_after(lambda: pipe(**models.call_kwargs(num_inference_steps=2, generator=generator)))
    with sides.backend("greedy", greedy):
        assert draws_after(lambda: run(pipe, ("torch", "greedy"), generator=generator)) == alone


def test_both_sides_start_from_the_same_random_state():
    """Draws from the caller's generator, from torch's global one, NumPy's and Python's."""
    import random

    def draw(pipeline, step, timestep, tensors):
        noise = torch.randn(1) + np.random.rand() + random.random() + torch.rand(1, generator=generator)
        return {"latents": tensors["latents"] + noise}

    generator = torch.Generator().manual_seed(3)
    with sides.backend("plain", plain):
        report = run(models.pipeline(), ("torch", "plain"), callback_on_step_end=draw, generator=generator, repeats=1)
    assert report.calls[0].steps[-1].relative_rms == 0
    assert report.calls[0].unsteady == {"torch": 0.0, "plain": 0.0}


def test_inputs_changed_by_a_run_are_put_back():
    image = torch.rand(1, 3, 64, 64)

    def spoil(pipeline, step, timestep, tensors):
        image.zero_()
        return tensors

    before = image.clone()
    with sides.backend("plain", plain):
        report = run(models.pipeline(), ("torch", "plain"), image=image, callback_on_step_end=spoil)
    assert report.calls[0].pictures[0].distance.max_abs == 0
    assert not before.eq(0).all() and image.eq(0).all()  # as after one call


def test_without_a_generator_both_get_one_and_the_report_says_so():
    pipe, reports = models.pipeline(), []
    with sides.backend("plain", plain):
        for seed in (98, 99):
            torch.manual_seed(seed)
            reports.append(run(pipe, ("torch", "plain"), generator=None))
    report, again = reports
    assert report.calls[0].pictures[0].distance.max_abs == 0
    assert np.array_equal(report.calls[0].pictures[0].reference, again.calls[0].pictures[0].reference)
    assert "no generator was given: both sides were given one with seed 0" in str(report)


@pytest.mark.parametrize("label, path", [
    ("unet", "conv_out.weight"), ("controlnet", "conv_in.weight"), ("vae.decoder", "conv_out.weight"),
    ("text_encoder", "text_model.final_layer_norm.weight"),
])  # fmt: skip
def test_two_percent_on_one_weight_fails_and_is_named(label, path):
    from transformers import CLIPTextModel

    if label == "text_encoder" and not hasattr(CLIPTextModel, "text_model"):
        path = next(n for n, _ in models.text_encoder().named_parameters() if n.endswith("final_layer_norm.weight"))
    with sides.backend("bent", sides.bent(label, path)):
        report = run(models.pipeline(), ("torch", "bent"), shadow=True)
    assert not report.ok and "components, same inputs" in failed(report)
    assert report.calls[0].first_difference.place.component == label
    wrong = {d.place.component for d in report.calls[0].shadow if d.distance.relative_rms > 1e-6}
    reference, shadow = report.calls[0].runs[0], report.calls[0].runs[-1]
    assert shadow.kind == "shadow" and torch.equal(shadow.latents[-1], reference.latents[-1])
    assert wrong == {label}  # the same inputs: what comes after the wrong component is not blamed


def test_the_step_and_the_output_are_named():
    def function(label, original, args, kwargs):
        out = original(*args, **kwargs)
        if label == "controlnet":
            calls.append(label)
            if len(calls) == 3 + 4 + 2:  # its third call in the shadow run is the third step
                out[0][1].mul_(1.02)
        return out

    calls = []
    with sides.backend("bent", function):
        report = run(models.pipeline(), ("torch", "bent"), shadow=True, repeats=1, num_inference_steps=3)
    first = report.calls[0].first_difference
    assert (first.place.component, first.place.step, first.output) == ("controlnet", 2, 1)
    assert "first that differs: controlnet, step 2, output 1" in str(report)


def test_a_side_that_changes_its_mind_is_noticed():
    """Right in the first run, wrong in the measured one: a stale graph would look so."""
    with sides.backend("bent", sides.bent("vae.decoder", "conv_out.weight", 1.5, from_call=1)):
        report = run(models.pipeline(), ("torch", "bent"), repeats=1)
    assert failed(report) == ["pixels off between first and later runs"]
    assert report.calls[0].unsteady["torch"] == 0


def test_latents_that_change_from_run_to_run_are_noticed():
    with sides.backend("bent", sides.bent("unet", "conv_out.weight", 1.5, from_call=2)):
        report = run(models.pipeline(), ("torch", "bent"), repeats=1, output_type="latent")
    assert failed(report) == ["output, first against later runs"]


def test_components_that_draw_random_numbers_draw_the_same_in_a_shadow_run():
    def noisy(label, original, args, kwargs):
        out = original(*args, **kwargs)
        return out + torch.randn(out.shape) if label == "vae.decoder" else out

    with sides.backend("noisy", noisy), sides.backend("noisy too", noisy):
        report = run(models.pipeline(), ("noisy", "noisy too"), shadow=True)
    assert report.ok and max(d.distance.max_abs for d in report.calls[0].shadow) == 0


def test_a_progress_bar_of_the_users_is_left_on_the_pipeline():
    pipe = models.pipeline()
    mine = pipe.progress_bar = lambda iterable=None, total=None: None
    assert run(pipe, ("torch", "torch")).ok and pipe.progress_bar is mine


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_failing_side_is_named(wrong):
    def fail(label, original, args, kwargs):
        if label == "unet":
            raise ZeroDivisionError("no such number")
        return original(*args, **kwargs)

    order = ("bad", "torch") if wrong == 0 else ("torch", "bad")
    with sides.backend("bad", fail):
        report = run(models.pipeline(), order)
    assert not report.ok and list(report.calls[0].errors) == ["bad"]
    assert "the call fails on bad: ZeroDivisionError: no such number" in str(report)
    assert report.to_dict()["calls"][0]["errors"] == {"bad": "ZeroDivisionError: no such number"}


def test_nan_is_called_out():
    def nan(label, original, args, kwargs):
        out = original(*args, **kwargs)
        if label == "unet":
            out[0][..., 0, 0] = float("nan")
        return out

    with sides.backend("nan", nan):
        report = run(models.pipeline(), ("torch", "nan"), shadow=True)
    text = str(report)
    assert "picture 0 is NaN on nan" in text and "latents are not finite on nan from step 0 on" in text
    assert not report.ok and not report.calls[0].first_difference.distance.finite
    assert json.loads(report.to_json())["calls"][0]["steps"][0]["relative_rms"] == "nan"


def test_black_pictures_are_called_out_even_if_they_are_equal():
    def black(label, original, args, kwargs):
        out = original(*args, **kwargs)
        return out * 0 - 5 if label == "vae.decoder" else out

    with sides.backend("black", black), sides.backend("black too", black):
        report = run(models.pipeline(), ("torch", "black"))
        both = run(models.pipeline(), ("black", "black too"), output_type="pil")
    assert "picture 0 is black on black" in str(report) and not report.ok
    assert failed(both) == ["usable pictures", "usable pictures"]


def test_a_comparison_of_torch_with_itself_under_another_name_proves_nothing(make):
    """A component that is refused on both sides, or has no adapter: every call fell back."""
    pipe = models.pipeline()
    ms_controlnet_backend.enable()
    ms_controlnet_backend.disable(pipe)  # taken out by hand: no component is bound
    report = run(pipe, ("torch", "mindspore"))
    assert failed(report) == ["both sides ran"]


def test_latents_are_compared_where_there_are_no_pictures():
    with sides.backend("bent", sides.bent("unet", "conv_out.weight")):
        report = run(models.pipeline(), ("torch", "bent"), output_type="latent")
        same = run(models.pipeline(), ("torch", "torch"), output_type="latent")
    assert not report.calls[0].pictures and "output" in failed(report)
    assert same.ok and same.calls[0].values[0].relative_rms == 0


@pytest.mark.parametrize("options", [{"output_type": "pil"}, {"output_type": "pt"}, {"return_dict": False}])
def test_every_kind_of_output_is_understood(options):
    report = run(models.pipeline(), ("torch", "torch"), num_images_per_prompt=2, **options)
    assert report.ok and [p.reference.shape for p in report.calls[0].pictures] == [(64, 64, 3)] * 2


@pytest.mark.parametrize("at", [1, 4])
def test_ctrl_c_leaves_a_partial_report(at, tmp_path):
    steps = []

    def interrupt(pipeline, step, timestep, tensors):
        steps.append(step)
        if len(steps) == at:
            raise KeyboardInterrupt
        return tensors

    pipe = models.pipeline()
    report = run(pipe, ("torch", "torch"), callback_on_step_end=interrupt, repeats=3)
    assert report.interrupted and not report.ok and "PARTIAL" in str(report)
    assert json.loads(report.to_json())["complete"] is False
    text = report.save(tmp_path / "partial.html").read_text()
    assert "This report is partial" in text
    assert len(report.calls[0].runs) == (at + 1) // 2
    assert "progress_bar" not in vars(pipe)
    assert pipe(**models.call_kwargs()).images.shape == (1, 64, 64, 3)


def test_bad_input():
    pipe = models.pipeline()
    with pytest.raises(TypeError, match="needs a diffusers pipeline, got UNet2DConditionModel"):
        compare(pipe.unet)
    with pytest.raises(UnknownBackend, match="no backend named 'onnx'; known backends: mindspore, torch"):
        compare(pipe, backends=("torch", "onnx"), prompt="a")
    with pytest.raises(ValueError, match="needs two backends"):
        compare(pipe, backends=("torch",), prompt="a")
    with pytest.raises(ValueError, match="repeats must not be negative"):
        compare(pipe, repeats=-1, prompt="a")
    report = compare(pipe, backends=("torch", "torch"), prompt="a", progress=False)  # no control picture
    assert not report.ok and list(report.calls[0].errors) == ["torch", "torch again"]


def test_progress_is_shown_by_side_and_step(capsys):
    with sides.backend("plain", plain):
        run(models.pipeline(), ("torch", "plain"), progress=True)
    err = capsys.readouterr().err
    assert "torch, first run: 100%" in err and "plain, first run: 100%" in err and "2/2" in err
