"""The safety checker: its CLIP vision encoder is compiled; the NumPy verdict after it is upstream's."""

from ..hookspecs import Adapter, Site
from .matching import named

ADAPTER = Adapter(
    "safety_checker",
    named("StableDiffusionSafetyChecker"),
    lambda checker, name: [Site(f"{name}.vision_model", checker.vision_model)],
)
