"""torch 2.6 cannot slice a list of modules while it exports (``self.resnets[1:]``: most of diffusers' blocks do); in
2.13 its stand-ins for modules have a ``__getitem__`` of their own, and this one is never reached."""

from __future__ import annotations

import collections
import contextlib
import functools

import torch

_CLASSES = (torch.nn.ModuleList, torch.nn.Sequential)


@contextlib.contextmanager
def allowed():
    """To be entered while exporting, by one thread at a time."""
    plain = {cls: cls.__getitem__ for cls in _CLASSES}
    for cls, method in plain.items():
        cls.__getitem__ = _slicing(cls, method)
    try:
        yield
    finally:
        for cls, method in plain.items():
            cls.__getitem__ = method


def _slicing(cls: type, plain):
    @functools.wraps(plain)
    def __getitem__(self, i):
        if not isinstance(i, slice) or not hasattr(type(self), "get_base"):
            return plain(self, i)
        items = list(self._modules.items())[i]
        return cls(collections.OrderedDict(items)) if cls is torch.nn.Sequential else cls(m for _, m in items)

    return __getitem__
