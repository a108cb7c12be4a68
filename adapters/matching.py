"""Recognising an upstream class without importing it: by name, subclasses included."""

from __future__ import annotations


def named(*names: str):
    """A predicate: is the component an instance of a class (or subclass) of one of these names?"""

    def matches(component) -> bool:
        return any(cls.__name__ in names for cls in type(component).__mro__)

    return matches
