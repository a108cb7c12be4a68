"""Random small functions of views, copies and writes: what the graph passes have to keep."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

LARGEST = 96
"""Elements of a value."""

X = torch.arange(24.0).reshape(2, 3, 4) / 7 - 1


def shapes(v):
    """Others for as many elements."""
    n = tuple(v.shape)
    found = [(v.numel(),), (1, *n)]
    found += [(n[0] * n[1], *n[2:]), (*n[:-2], n[-2] * n[-1])] if v.ndim > 1 else []
    return found + [(*n[:d], 2, n[d] // 2, *n[d + 1 :]) for d in range(v.ndim) if n[d] % 2 == 0]


def viewed(v, k):
    return v.view(choose(shapes(v), k)) if v.is_contiguous() else v.reshape(choose(shapes(v), k))


def choose(options, k):
    return options[k % len(options)]


def axis(v, k):
    return k % v.ndim


def selected(v, k):
    return v.select(axis(v, k), -1) if v.ndim > 1 and v.shape[axis(v, k)] else v


VIEWS = {
    "view": viewed,
    "contiguous view": lambda v, k: v.contiguous().view(choose(shapes(v), k)),
    "view of a clone": lambda v, k: v.clone(memory_format=torch.contiguous_format).view(-1),
    "view by one": lambda v, k: (v * 1).contiguous().view(choose(shapes(v), k)),
    "view as": lambda v, k: v.contiguous().view_as(v.reshape(choose(shapes(v), k))),
    "reshape": lambda v, k: v.reshape(choose(shapes(v), k)),
    "flatten": lambda v, k: v.flatten(axis(v, k)),
    "permute": lambda v, k: v.permute(*range(v.ndim)[::-1]),
    "transpose": lambda v, k: v.transpose(axis(v, k), -1),
    "slice": lambda v, k: v.narrow(axis(v, k), 0, (v.shape[axis(v, k)] + 1) // 2),
    "strided slice": lambda v, k: v[..., ::2],
    "empty slice": lambda v, k: v[:0] if k == 0 else v[1:],
    "select": selected,
    "expand": lambda v, k: v.unsqueeze(0).expand(2, *v.shape) if v.numel() * 2 <= LARGEST else v,
    "unsqueeze": lambda v, k: v.unsqueeze(k % (v.ndim + 1)),
    "squeeze": lambda v, k: v.squeeze(axis(v, k)) if v.ndim > 1 else v,
}  # fmt: skip

COPIES = {
    "contiguous": lambda v, k: v.contiguous(),
    "clone": lambda v, k: v.clone(),
    "contiguous clone": lambda v, k: v.clone(memory_format=torch.contiguous_format),
    "to its dtype": lambda v, k: v.to(v.dtype),
    "copy to its dtype": lambda v, k: v.to(v.dtype, copy=True),
    "contiguous copy": lambda v, k: v.to(v.dtype, copy=True, memory_format=torch.contiguous_format),
    "to float": lambda v, k: v.float(),
    "to int": lambda v, k: v.to(torch.int64),
    "to bool": lambda v, k: v > 0,
    "detach": lambda v, k: v.detach(),
    "by one": lambda v, k: v * 1 if k % 2 else v / 1,
}

WRITES = {
    "add_": lambda v, k: v.add_(k),
    "mul_": lambda v, k: v.mul_(2),
    "copy_": lambda v, k: v.copy_(torch.arange(v.shape[-1])),
    "copy_ transposed": lambda v, k: v.transpose(0, -1).copy_(v.clone().transpose(0, -1) + 1),
    "write to a row": lambda v, k: v.select(0, 0).add_(2) if v.shape[0] else v,
    "write to a slice": lambda v, k: v.narrow(-1, 0, (v.shape[-1] + 1) // 2).mul_(3),
    "write through a view": lambda v, k: v.contiguous().view(-1).add_(1),
}
"""To a value that is nobody else's."""

UNLOWERED = {
    "zero_": lambda v, k: v.zero_(),
    "index_put_": lambda v, k: v.index_put_((torch.tensor([0, -1]),), torch.tensor(k).to(v.dtype)),
    "scatter_": lambda v, k: v.scatter_(-1, torch.zeros_like(v, dtype=torch.int64), v + 1),
    "write to every other": lambda v, k: v[..., ::2].add_(1),
}
"""Writes without a lowering."""

CONSTANTS = {
    "zeros": lambda k: torch.zeros(2, 3, 2),
    "ints": lambda k: torch.zeros(4, 3, dtype=torch.int64),
    "arange": lambda k: torch.arange(12).view(3, 4),
    "full": lambda k: torch.full((2, 6), k / 2),
    "literal": lambda k: torch.tensor([[1.0, k], [-2.0, 3.0]]),
    "bools": lambda k: torch.ones(2, 2, dtype=torch.bool),
    "empty": lambda k: torch.zeros(0, 3),
}


def join(v, other):
    """Of both, in the shape of the first."""
    return v + other.reshape(-1)[:1] if other.numel() else v


def steps(kinds):
    """A list of (kind, operand, number)."""
    return st.lists(
        st.tuples(st.sampled_from(sorted(kinds)), st.integers(0, 7), st.integers(0, 5)), max_size=9, min_size=3
    )


EVERYTHING = {*VIEWS, *COPIES, *WRITES, *UNLOWERED, *CONSTANTS, "join", "again", "written clone"}


class Program(torch.nn.Module):
    """A program's steps as a module: of a float tensor and a weight."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4).t() / 5, requires_grad=False)

    def forward(self, x):
        values = [x, self.weight, torch.arange(6.0).reshape(2, 3).t()]
        own = [False, False, True]  # may be written to: lies in no argument's or weight's memory
        made: list = []
        for kind, place, k in self.steps:
            i = -1 - place % min(len(values), 4)
            v, mine = values[i], own[i]
            if kind == "again" and made:
                function, v, k, mine = made[-1]
            elif kind == "join":
                function, mine = (lambda v, k: join(v, values[-1])), True
            elif kind in CONSTANTS:
                v, mine = CONSTANTS[kind](k), kind != "literal"
                function = lambda v, k: v  # noqa: E731
            elif kind in WRITES or kind in UNLOWERED or kind == "written clone":
                write = (WRITES | UNLOWERED).get(kind, WRITES["add_"])
                if v.ndim == 0 or v.dtype is torch.bool or v.numel() == 0:
                    continue
                if not mine or kind in UNLOWERED or kind == "written clone" or 0 in v.stride():
                    v, mine = v.clone(memory_format=torch.contiguous_format), True
                write(v, k)
                function = lambda v, k: v  # noqa: E731
            else:
                function = (VIEWS | COPIES).get(kind, COPIES["clone"])
                mine = mine or kind in ("clone", "contiguous clone", "copy to its dtype", "contiguous copy")
            if v.ndim == 0 and kind in VIEWS:
                continue
            made.append((function, v, k, mine))
            values.append(function(v, k))
            own.append(mine)
        return tuple(values[-4:])
