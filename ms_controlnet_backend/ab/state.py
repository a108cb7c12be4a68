"""Everything a call can draw from or change outside the pipeline: put back, so that both sides start from the same."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch

from ..compat import accelerators


class State:
    """The state of the random generators (torch's on each device, NumPy's, Python's, those among the values) and the
    contents of the tensors, arrays, pictures, lists and dictionaries in the values, to be restored in place.

    Objects of other kinds are left alone. Nothing is written where nothing changed: a tensor's version stays.
    """

    def __init__(self, values):
        self._restore: list[Callable[[], None]] = []
        self._seen: set[int] = set()
        torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
        self._restore += [
            lambda: torch.set_rng_state(torch_state),
            lambda: np.random.set_state(numpy_state),
            lambda: random.setstate(python_state),
            *accelerators.random_states(),
        ]
        self._keep(values)

    def restore(self) -> None:
        for restore in self._restore:
            restore()

    def _keep(self, value) -> None:
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, torch.Generator):
            state = value.get_state().clone()
            self._restore.append(lambda: value.set_state(state))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator.state
            self._restore.append(lambda: setattr(value.bit_generator, "state", bits))
        elif isinstance(value, random.Random):
            numbers = value.getstate()
            self._restore.append(lambda: value.setstate(numbers))
        elif isinstance(value, torch.Tensor):
            copy = value.detach().clone()
            self._restore.append(lambda: _put_back_tensor(value, copy))
        elif isinstance(value, np.ndarray):
            array = value.copy()
            self._restore.append(lambda: _put_back_array(value, array))
        elif isinstance(value, list):
            items = list(value)
            self._restore.append(lambda: value.__setitem__(slice(None), items))
        elif isinstance(value, dict):
            entries = dict(value)
            self._restore.append(lambda: (value.clear(), value.update(entries)))
        elif hasattr(value, "tobytes") and hasattr(value, "paste"):  # a PIL picture
            picture = value.copy()
            self._restore.append(lambda: _put_back_picture(value, picture))
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
            self._keep(item)


def _put_back_tensor(tensor: torch.Tensor, copy: torch.Tensor) -> None:
    if not torch.equal(tensor.detach(), copy):
        with torch.no_grad():
            tensor.copy_(copy)


def _put_back_array(array: np.ndarray, copy: np.ndarray) -> None:
    if not np.array_equal(array, copy):
        array[...] = copy


def _put_back_picture(picture, copy) -> None:
    if picture.size == copy.size and picture.tobytes() != copy.tobytes():
        picture.paste(copy)
