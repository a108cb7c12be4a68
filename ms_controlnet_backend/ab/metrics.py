"""How far apart two tensors are, and two pictures; and what is wrong with a single one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

LEVEL = 1 / 255  # one step of an 8-bit picture
_ROUNDING = 1e-6  # float32 pictures one level apart must not count as more


@dataclass(frozen=True)
class Distance:
    """Of a tensor from its reference. max_abs: largest absolute difference. relative_rms: |difference| / |reference|
    (Euclidean norms; inf where only the reference is zero). cosine: of the angle between them. finite: neither holds
    NaN or infinity where the other does not."""

    max_abs: float
    relative_rms: float
    cosine: float
    finite: bool = True


def dtype_name(dtype: torch.dtype) -> str:
    """``"float32"`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def distance(got: torch.Tensor, reference: torch.Tensor) -> Distance:
    """Computed in float64. Shapes that differ are infinitely far apart."""
    if got.shape != reference.shape:
        return Distance(float("inf"), float("inf"), 0.0)
    a, b = (t.detach().cpu().to(torch.float64).reshape(-1) for t in (got, reference))
    if not a.numel():
        return Distance(0.0, 0.0, 1.0)
    finite = bool(torch.isfinite(a).all() and torch.isfinite(b).all())
    equal = a == b  # infinities in the same places (masks) are equal, not NaN apart
    difference = torch.where(equal, 0.0, a - b)
    if not finite:
        finite = bool(torch.isfinite(difference).all())
        masked = equal & ~torch.isfinite(a)
        a, b = torch.where(masked, 0.0, a), torch.where(masked, 0.0, b)
    size_a, size_b, apart = float(a.norm()), float(b.norm()), float(difference.norm())
    relative = apart / size_b if size_b else (0.0 if apart == 0 else float("inf"))
    cosine = float(torch.dot(a, b)) / (size_a * size_b) if size_a and size_b else float(size_a == size_b)
    return Distance(float(difference.abs().max()), relative, cosine, finite)


@dataclass(frozen=True)
class PictureDistance:
    """Of two pictures in 0 … 1. psnr: dB, inf if equal, None without scikit-image. ssim: 1 if equal, None without
    scikit-image or for pictures under 3 pixels. off: fraction of pixels with a channel off by more than 1/255."""

    psnr: float | None
    ssim: float | None
    max_abs: float
    mean_abs: float
    off: float


def picture_distance(got: np.ndarray, reference: np.ndarray) -> PictureDistance:
    """Pictures of (height, width, channels); of different sizes: infinitely far apart."""
    if got.shape != reference.shape:
        return PictureDistance(float("-inf"), 0.0, float("inf"), float("inf"), 1.0)
    difference = np.abs(got.astype(np.float64) - reference)
    largest = difference.max(axis=-1)
    off = float((~(largest <= LEVEL + _ROUNDING)).mean())  # NaN is off
    psnr, ssim = _perceived(got, reference)
    return PictureDistance(psnr, ssim, float(difference.max()), float(difference.mean()), off)


def _perceived(got, reference) -> tuple[float | None, float | None]:
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError:
        return None, None
    if not (np.isfinite(got).all() and np.isfinite(reference).all()):
        return float("nan"), float("nan")
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        psnr = float(peak_signal_noise_ratio(reference, got, data_range=1.0))
        window = min(7, *(side - 1 + side % 2 for side in got.shape[:2]))
        ssim = None
        if window >= 3:
            ssim = float(structural_similarity(reference, got, data_range=1.0, channel_axis=-1, win_size=window))
    return psnr, ssim


def defects(picture: np.ndarray) -> list[str]:
    """What makes a picture worthless whatever it is compared with: ``"NaN"``, ``"black"``."""
    if not np.isfinite(picture).all():
        return ["NaN"]
    return ["black"] if picture.size and float(picture.max()) <= 0 else []
