"""Where the demo's trained pipeline lies: a StableDiffusionControlNetPipeline for 128x128 pictures, bundled.

``controlnet`` takes edges, ``controlnet_masks`` filled shapes; :mod:`.training` is how it was made, :mod:`.scenes` what
it knows.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def folder() -> Path:
    """The pipeline in the diffusers folder layout."""
    return Path(str(resources.files(__package__).joinpath("checkpoint")))
