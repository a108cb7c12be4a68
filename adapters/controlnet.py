"""ControlNets, single and multiple (Zhang et al., arXiv 2302.05543; diffusers/models/controlnets/)."""

from ..hookspecs import Adapter, Site
from .controlnet_union import one_scale_a_picture, union_is_silent
from .matching import named
from .scales import is_silent, scaled_by_arguments, scales

_multiple = named("MultiControlNetModel", "MultiControlNetUnionModel")
_union = named("ControlNetUnionModel")


def _sites(component, name):
    if _multiple(component):  # upstream sums the residuals of its nets; each net is compiled
        return [site for i, net in enumerate(component.nets) for site in _sites(net, f"{name}.nets.{i}")]
    return [
        Site(
            name,
            component,
            scalars=("timestep", "conditioning_scale"),
            constant=("encoder_hidden_states", "controlnet_cond", "control_type", "added_cond_kwargs"),
            is_zero=union_is_silent if _union(component) else is_silent,
            resident=True,  # the denoiser takes them
            settings=scales,
            around=one_scale_a_picture if _union(component) else scaled_by_arguments,
        )
    ]


ADAPTER = Adapter(
    "controlnet",
    named("ControlNetModel", "ControlNetUnionModel", "MultiControlNetModel", "MultiControlNetUnionModel"),
    _sites,
)
