"""Where the demo's trained pipeline lies: a bundled Stable Diffusion for 128x128 pictures and two ControlNets.

The ControlNet in the subfolder ``controlnet`` takes edges, that in ``controlnet_masks`` filled shapes; :mod:`.training`
is how they were made, :mod:`.scenes` what they know.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def folder() -> Path:
    """The pipeline in the diffusers folder layout."""
    return Path(str(resources.files(__package__).joinpath("checkpoint")))
