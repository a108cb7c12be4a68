"""What has to be known of a diffusers pipeline's ``__call__`` to watch it, catch it, and read what it returns."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading

import numpy as np
import torch

from .diffusers_pipelines import pipeline_class

CALLBACK = "callback_on_step_end"
TENSORS = "callback_on_step_end_tensor_inputs"


def bind(pipe, args: tuple, kwargs: dict) -> dict:
    """A call's arguments by name, those left out not among them. Raises TypeError as the call would."""
    signature = next((s for s in _signatures(pipe) if not _has(s, inspect.Parameter.VAR_POSITIONAL)), None)
    if signature is None:
        raise TypeError(f"{type(pipe).__name__}.__call__ does not name its arguments")
    bound = signature.bind_partial(pipe, *args, **kwargs)
    named = dict(list(bound.arguments.items())[1:])
    for p in signature.parameters.values():
        if p.kind is p.VAR_KEYWORD:
            named.update(named.pop(p.name, {}))
    return named


def accepts(pipe, name: str) -> bool:
    """Does the pipeline's call have this argument, or hand it on to the one it overrides?"""
    for signature in _signatures(pipe):
        if name in signature.parameters:
            return True
        if not _has(signature, inspect.Parameter.VAR_KEYWORD):
            return False
    return False


def _signatures(pipe) -> list[inspect.Signature]:
    return [inspect.signature(vars(cls)["__call__"]) for cls in type(pipe).__mro__ if "__call__" in vars(cls)]


def _has(signature: inspect.Signature, kind) -> bool:
    return any(p.kind is kind for p in signature.parameters.values())


@contextlib.contextmanager
def watched(pipe, arguments: dict, *, bar, step):
    """The arguments of a call of ``pipe`` in which every step is seen; the pipeline is as before afterwards.

    bar: in place of the pipeline's own progress bar, called as ``bar(iterable, total)`` when the loop over the steps
    begins. step: called as ``step(index, latents)`` after each. A callback of the user's is called before it.
    """
    if accepts(pipe, CALLBACK):
        arguments = arguments | _callbacks(arguments, step)
    own = {k: v for k, v in vars(pipe).items() if k == "progress_bar"}
    vars(pipe)["progress_bar"] = lambda iterable=None, total=None: bar(iterable, total)
    try:
        yield arguments
    finally:
        vars(pipe).pop("progress_bar", None)
        vars(pipe).update(own)


def _callbacks(arguments: dict, step) -> dict:
    users = arguments.get(CALLBACK)
    names = list(getattr(users, "tensor_inputs", None) or arguments.get(TENSORS) or ["latents"])

    def callback(pipeline, index, timestep, tensors):
        returned = users(pipeline, index, timestep, tensors) if users else tensors
        step(index, (returned or tensors).get("latents", tensors.get("latents")))
        return returned

    return {CALLBACK: callback, TENSORS: names if "latents" in names else [*names, "latents"]}


@contextlib.contextmanager
def intercepted(handler):
    """Every pipeline call inside the block becomes ``handler(call, pipe, args, kwargs)``; ``call(**arguments)`` is the
    pipeline's own. A pipeline called by another is left alone. Classes made inside the block are caught too."""
    base = pipeline_class()
    patched: list[tuple[type, object]] = []
    inside = threading.local()

    def patch(cls):
        own = vars(cls).get("__call__")
        if own is None or hasattr(own, "_ms_controlnet_call"):
            return

        @functools.wraps(own)
        def __call__(self, *args, **kwargs):
            if getattr(inside, "call", False):
                return own(self, *args, **kwargs)
            inside.call = True
            try:
                return handler(functools.partial(own, self), self, args, kwargs)
            finally:
                inside.call = False

        __call__._ms_controlnet_call = True
        patched.append((cls, own))
        cls.__call__ = __call__

    def __init_subclass__(cls, **kwargs):
        super(base, cls).__init_subclass__(**kwargs)
        patch(cls)

    for cls in _subclasses(base):
        patch(cls)
    base.__init_subclass__ = classmethod(__init_subclass__)
    try:
        yield
    finally:
        del base.__init_subclass__
        for cls, own in patched:
            cls.__call__ = own


def _subclasses(cls) -> list[type]:
    found = [cls]
    for sub in cls.__subclasses__():
        found += _subclasses(sub)
    return list(dict.fromkeys(found))


def example(pipe, size: int) -> dict:
    """Arguments of a call of one step, every component that the pipeline's kind needs taking part. size: pixels."""
    from PIL import Image

    grey, nets = Image.new("RGB", (size, size), "grey"), len(getattr(getattr(pipe, "controlnet", None), "nets", ()))
    control = [grey] * nets if nets else grey
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (0, 0, size // 2, size))
    given = {
        "prompt": "a house",
        "image": grey if accepts(pipe, "control_image") else control,
        "control_image": control,
        "mask_image": mask,
        "height": size,
        "width": size,
        "strength": 1.0,
        "num_inference_steps": 1,
        "generator": torch.Generator().manual_seed(0),
        "control_mode": 0,
    }
    return {name: value for name, value in given.items() if accepts(pipe, name)}


def first_field(output):
    """What a call is about: the pictures, or the latents; of an output object or of a tuple."""
    try:
        return output[0]
    except (KeyError, IndexError, TypeError):
        return output


def pictures(output) -> list[np.ndarray]:
    """The pictures of a call's output, each float32 (height, width, channels) in 0 … 1; none where it is latents."""
    value = first_field(output)
    if isinstance(value, (list, tuple)):
        return [p for item in value for p in _pictures(item)]
    return _pictures(value)


def _pictures(value) -> list[np.ndarray]:
    if isinstance(value, (list, tuple)):
        return [p for item in value for p in _pictures(item)]
    if hasattr(value, "getbands"):  # PIL
        array = np.asarray(value.convert("RGB") if value.mode not in ("L", "RGB") else value, np.float32) / 255
        return [array if array.ndim == 3 else array[..., None]]
    if isinstance(value, torch.Tensor) and value.ndim >= 3 and value.shape[-3] in (1, 3):
        value = value.detach().float().cpu().movedim(-3, -1).numpy()
    if isinstance(value, np.ndarray) and value.ndim >= 3 and value.shape[-1] in (1, 3):
        return list(value.astype(np.float32).reshape(-1, *value.shape[-3:]))
    return []


def tensors(output) -> list[torch.Tensor]:
    """Tensors and arrays of the output's first field, where it holds no pictures."""
    value = first_field(output)
    items = value if isinstance(value, (list, tuple)) else [value]
    items = [torch.from_numpy(i) if isinstance(i, np.ndarray) and i.dtype.kind in "fiub" else i for i in items]
    return [i.detach().clone() for i in items if isinstance(i, torch.Tensor)]
