"""The denoiser of Stable Diffusion 1, 2 and XL (diffusers/models/unets/unet_2d_condition.py)."""

from ..hookspecs import Adapter, Site
from .matching import named
from .scales import scaled_by_arguments, scales

ADAPTER = Adapter(
    "unet",
    named("UNet2DConditionModel"),
    lambda unet, name: [
        Site(
            name,
            unet,
            scalars=("timestep",),
            constant=("encoder_hidden_states", "added_cond_kwargs", "timestep_cond", "encoder_attention_mask"),
            settings=scales,
            around=scaled_by_arguments,
        )
    ],
)
