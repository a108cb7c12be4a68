"""T2I-Adapters, single and multiple (diffusers/models/adapter.py)."""

from ..hookspecs import Adapter, Site
from .matching import named

_multiple = named("MultiAdapter")


def _sites(component, name):
    if _multiple(component):  # upstream weighs and sums what its adapters return
        return [Site(f"{name}.adapters.{i}", adapter) for i, adapter in enumerate(component.adapters)]
    return [Site(name, component)]


ADAPTER = Adapter("t2i_adapter", named("T2IAdapter", "MultiAdapter"), _sites)
