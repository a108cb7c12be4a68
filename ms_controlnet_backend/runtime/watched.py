"""Calls of a component that torch computes because somebody watches (:mod:`..compat.watchers`): hooks, modes, tracers
and transforms see every module and operator as they would without this package. Nothing is compiled, refused or
forgotten: the next call that nobody watches is answered by the graph there is."""

from __future__ import annotations

import logging
import weakref

import torch
from torch.utils import _pytree as pytree

from ..compat import watchers
from ..errors import NotNow
from .resident import give

logger = logging.getLogger(__name__)
_told: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # component → the watchers that were named


class Watched(Exception):  # noqa: N818 - no error: it says who watches
    """Raised where a call's tensors show it."""


def foreign(t: torch.Tensor) -> Exception:
    """What is to be raised for an input that no graph takes. One that stands for a tensor is torch's way of tracing;
    any other subclass (DTensor, a script's own) may come with every call, so that its owner should know."""
    what = watchers.stand_in(t)
    return NotNow(f"an input is a {type(t).__name__}") if what is None else Watched(what)


def on_torch(component, watcher: str, original, args: tuple, kwargs: dict):
    """The call on torch, with ordinary tensors in place of those on the device."""
    component.stats.watched += 1
    told = _told.setdefault(component, set())
    if watcher not in told:
        told.add(watcher)
        logger.debug("%s is computed by torch while somebody watches: %s", component.label, watcher)
    if not watchers.recording():
        with watchers.unseen(torch.is_inference_mode_enabled()):
            args, kwargs = pytree.tree_map_only(torch.Tensor, give, (args, kwargs))
    return original(*args, **kwargs)
