"""A table that forgets."""

from __future__ import annotations

from collections import OrderedDict


class Recent(OrderedDict):
    """At most ``limit`` entries; beyond that the one not used for longest is dropped."""

    def __init__(self, limit: int):
        super().__init__()
        self._limit = limit

    def use(self, key):
        """The entry, or None."""
        if key in self:
            self.move_to_end(key)
        return self.get(key)

    def keep(self, key, value) -> int:
        """Add an entry; how many were dropped for it."""
        self[key] = value
        self.move_to_end(key)
        dropped = len(self) - self._limit
        for _ in range(dropped):
            self.popitem(last=False)
        return max(0, dropped)
