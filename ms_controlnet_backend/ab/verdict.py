"""Is it the same picture? Tolerances by dtype, why they are what they are, and the checks made against them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """component: relative RMS of one component's output, computed from the same inputs. operator: the same of a
    single operator. latents: relative RMS of the latents after any step, each side going on from its own. off:
    fraction of pixels that may be off by more than 1/255. mean: mean absolute difference of a picture in 0 … 1."""

    component: float
    operator: float
    latents: float
    off: float
    mean: float
    why: str


_DRIFT = (
    "Latents: five to ten times a component, since a step starts from the last one's error and guidance multiplies it"
)
_HALF = "after every operator, and one side may compute in float32 (MindSpore on CPU does): measured on small networks,"

TOLERANCES = {
    "float32": Tolerance(
        1e-4, 1e-5, 1e-3, 0.001, 0.1 / 255,
        "float32 rounds by 6e-8; another order of the sums in a network of some hundred layers makes 1e-6 to 1e-5 of "
        f"it, a wrong operator 1e-3 and more: 1e-4 lies between. {_DRIFT}. Pixels: rounding to 8 bits moves a value "
        "that lies on the edge by one level; by more than one only where it is really another",
    ),
    "float16": Tolerance(
        5e-3, 5e-3, 3e-2, 0.05, 1 / 255,
        f"float16 rounds by 5e-4 {_HALF} 1e-3 of a component's output and 4e-3 of the latents. {_DRIFT}",
    ),
    "bfloat16": Tolerance(
        4e-2, 4e-2, 2e-1, 1.0, 3 / 255,
        f"bfloat16 rounds by 4e-3 {_HALF} 9e-3 of a component's output and 3e-2 of the latents. {_DRIFT}. Single "
        "pixels are not judged: a level of an 8-bit picture is bfloat16's own rounding",
    ),
}  # fmt: skip


def tolerance(dtype: str) -> Tolerance:
    """Of a dtype's name. float64 is judged as float32 (the backends may compute in it), integers and booleans too."""
    return TOLERANCES.get(dtype, TOLERANCES["float32"])


def coarsest(dtypes) -> str:
    """The least precise floating dtype of those named; ``"float32"`` if there is none."""
    order = list(TOLERANCES)
    return max((d for d in dtypes if d in order), key=order.index, default="float32")


@dataclass(frozen=True)
class Check:
    """name: what was checked. value, limit: the figure and its bound, None where there is none. detail: a sentence."""

    name: str
    ok: bool
    value: float | None = None
    limit: float | None = None
    detail: str = ""


def judge(call) -> list[Check]:
    """The checks of a :class:`~.report.Call`; the verdict is that all are ok."""
    limits = tolerance(call.dtype)
    checks = [
        Check("ran", False, detail=f"the call fails on {side}: {type(error).__name__}: {error}")
        for side, error in call.errors.items()
    ]
    if not call.complete:
        checks.append(Check("complete", False, detail="interrupted: what follows is only part of it"))
    if call.errors:
        return checks
    checks += _worthless(call)
    if call.vacuous:
        checks.append(Check("both sides ran", False, detail=call.vacuous))
    checks += [Check("same work", False, detail=sentence) for sentence in call.missing]
    if not call.pictures and not call.values and not call.missing:
        checks.append(Check("output", False, detail="the call returned neither pictures nor tensors to compare"))
    if call.pictures:
        worst = max(p.distance.off for p in call.pictures)
        checks.append(_within("pixels off by more than 1/255", worst, limits.off))
        worst = _worst(p.distance.mean_abs for p in call.pictures)
        checks.append(_within("pixels, mean difference", worst, limits.mean))
    if call.steps:
        checks.append(_within("latents, worst step", _worst(s.relative_rms for s in call.steps), limits.latents))
    if call.values:
        checks.append(_within("output", _worst(v.relative_rms for v in call.values), limits.latents))
    if call.differences:
        checks.append(_judge_places("components, each side on its own", call.differences, "latents"))
    if call.shadow is not None:
        checks.append(_judge_places("components, same inputs", call.shadow, "component"))
    for name, by_side, limit in (
        ("pixels off between first and later runs", call.unsteady, limits.off),
        ("output, first against later runs", call.drift, limits.latents),
    ):
        if by_side:
            side = max(by_side, key=by_side.get)
            checks.append(_within(name, by_side[side], limit, f"on {side}"))
    return checks


def _worthless(call) -> list[Check]:
    checks = []
    for picture in call.pictures:
        for side, found in picture.defects.items():
            checks += [
                Check("usable pictures", False, detail=f"picture {picture.index} is {d} on {side}") for d in found
            ]
    for side, step in call.nan_steps.items():
        checks.append(Check("finite latents", False, detail=f"latents are not finite on {side} from step {step} on"))
    return checks


def _worst(values) -> float:
    values = list(values)
    return next((v for v in values if v != v), max(values))  # NaN is the worst


def _within(name: str, value: float, limit: float, detail: str = "") -> Check:
    return Check(name, value <= limit, value, limit, detail)


def beyond(difference, kind: str) -> bool:
    """Is an output further off than its dtype's tolerance of this kind (``"component"``, ``"latents"``, …)?"""
    limit = getattr(tolerance(difference.dtype), kind)
    return not (difference.distance.finite and difference.distance.relative_rms <= limit)


def first_beyond(differences, kind: str):
    """The first in time that is beyond tolerance, or None."""
    return next((d for d in differences if beyond(d, kind)), None)


def _judge_places(name: str, differences, kind: str) -> Check:
    first = first_beyond(differences, kind)
    if first is not None:
        limit = getattr(tolerance(first.dtype), kind)
        detail = f"first: {first.place}, output {first.output}"
        return Check(name, False, first.distance.relative_rms, limit, detail)
    worst = max(differences, key=lambda d: d.distance.relative_rms / getattr(tolerance(d.dtype), kind), default=None)
    if worst is None:
        return Check(name, False, detail="no component ran on both sides")
    limit = getattr(tolerance(worst.dtype), kind)
    return Check(name, True, worst.distance.relative_rms, limit, f"worst: {worst.place}, output {worst.output}")
