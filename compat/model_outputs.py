"""transformers before 4.35 or so does not tell torch's pytree what its outputs hold; newer releases register each class
as they define it."""

from __future__ import annotations

from torch.utils import _pytree as pytree


def register(cls: type) -> bool:
    """As newer releases do; was that to be done, and is it one of their outputs?"""
    ours = any(base.__name__ == "ModelOutput" and base.__module__.startswith("transformers.") for base in cls.__mro__)
    if not ours or cls in pytree.SUPPORTED_NODES:
        return False
    pytree.register_pytree_node(cls, lambda o: (list(o.values()), list(o)), lambda v, keys: cls(**dict(zip(keys, v))))
    return True
