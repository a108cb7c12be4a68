"""ControlNets, single and multiple (Zhang et al., arXiv 2302.05543; diffusers/models/controlnets/)."""

from ..hookspecs import Adapter, Site
from .matching import named
from .scales import scaled_by_arguments, scales

_multiple = named("MultiControlNetModel", "MultiControlNetUnionModel")


def _sites(component, name):
    if _multiple(component):  # upstream sums the residuals of its nets; each net is compiled
        return [site for i, net in enumerate(component.nets) for site in _sites(net, f"{name}.nets.{i}")]
    return [
        Site(
            name,
            component,
            scalars=("timestep", "conditioning_scale"),
            constant=("encoder_hidden_states", "controlnet_cond", "added_cond_kwargs"),
            zero_when_zero="conditioning_scale",  # the last thing forward does is to scale every residual
            resident=True,  # the denoiser takes them
            settings=scales,
            around=scaled_by_arguments,
        )
    ]


ADAPTER = Adapter(
    "controlnet",
    named("ControlNetModel", "ControlNetUnionModel", "MultiControlNetModel", "MultiControlNetUnionModel"),
    _sites,
)
