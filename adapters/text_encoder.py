"""CLIP text encoders (transformers/models/clip/modeling_clip.py)."""

from ..hookspecs import Adapter, Site
from .matching import named
from .scales import scales

ADAPTER = Adapter(
    "text_encoder",
    named("CLIPTextModel", "CLIPTextModelWithProjection"),
    lambda encoder, name: [Site(name, encoder, settings=scales)],
)
