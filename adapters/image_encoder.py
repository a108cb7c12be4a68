"""CLIP vision encoders, which IP-Adapter uses (transformers/models/clip/modeling_clip.py)."""

from ..hookspecs import Adapter, Site
from .matching import named
from .scales import scales

ADAPTER = Adapter(
    "image_encoder",
    named("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    lambda encoder, name: [Site(name, encoder, settings=scales)],
)
