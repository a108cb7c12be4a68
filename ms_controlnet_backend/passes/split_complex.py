"""Rewrites complex numbers as pairs of real tensors, and Fourier transforms as products with cosine and sine matrices.

A transform along an axis of n elements costs n multiplications an element: FreeU's images have at most 128 a side.
"""

from __future__ import annotations

import math

import torch

from ..errors import NotLowered, Refused
from .drop_no_ops import COPIES
from .nodes import call, constant, same_dtype

aten = torch.ops.aten

# overload → (inverse, how many axes: None for those it is given)
TRANSFORMS = {
    aten.fft_fft.default: (False, 1),
    aten.fft_ifft.default: (True, 1),
    aten.fft_fft2.default: (False, None),
    aten.fft_ifft2.default: (True, None),
    aten.fft_fftn.default: (False, None),
    aten.fft_ifftn.default: (True, None),
}
SHIFTS = {aten.fft_fftshift.default: 1, aten.fft_ifftshift.default: -1}
ELEMENTWISE = {aten.add.Tensor, aten.sub.Tensor}
PARTS = {aten.real.default: 0, aten.imag.default: 1}
SHAPES = {aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int, aten.slice.Tensor,
          aten.select.int, aten.unsqueeze.default, aten.squeeze.dim, aten.expand.default, aten.neg.default,
          aten.roll.default, aten.flip.default}  # fmt: skip


def split_complex(graph_module) -> None:
    """Raises NotLowered, naming the overload, for one that is not known to take or return complex tensors; where the
    graph may be cut there, leaves it with the complex tensors it has."""
    _Splitter(graph_module).run()


class _Splitter:
    def __init__(self, graph_module):
        self.graph_module, self.graph = graph_module, graph_module.graph
        self.pairs: dict = {}  # complex node → (real node, imaginary node)
        self.matrices: dict = {}
        self.cut = graph_module.meta.get("cut", False)

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "output":
                if any(_is_complex(n) for n in node.all_input_nodes):
                    raise Refused("a complex output")
            elif _is_complex(node) or any(_is_complex(n) for n in node.all_input_nodes):
                with self.graph.inserting_before(node):
                    self.try_to_split(node)
        if self.pairs:
            self.graph.eliminate_dead_code()

    def try_to_split(self, node) -> None:
        try:
            if any(_is_complex(n) and n not in self.pairs for n in node.all_input_nodes):
                raise NotLowered(f"{node.target} on complex numbers that are no pair")
            self.split(node)
        except NotLowered:
            if not self.cut:
                raise

    def split(self, node) -> None:
        op, args = node.target, node.args
        if op in TRANSFORMS:
            inverse, axes = TRANSFORMS[op]
            self.pairs[node] = self.transform(node, inverse, axes)
        elif op in SHIFTS:
            x = args[0]
            dims = _axes(args[1] if len(args) > 1 else None, x)
            shifts = [SHIFTS[op] * (_shape(x)[d] // 2) for d in dims]
            self.pairs[node] = self.each(lambda part: self.call(aten.roll.default, part, shifts, dims), x)
        elif op is aten.mul.Tensor:
            self.pairs[node] = self.multiply(*args)
        elif op in ELEMENTWISE and len(args) == 2 and not node.kwargs:
            a, b = (self.parts(x) for x in args)
            self.pairs[node] = tuple(self.combine(op, x, y, _shape(node)) for x, y in zip(a, b))
        elif op in SHAPES and _is_complex(node):
            self.pairs[node] = self.each(lambda part: self.call(op, part, *args[1:], **node.kwargs), args[0])
        elif op in PARTS:
            node.replace_all_uses_with(self.pairs[args[0]][PARTS[op]])
        elif op is aten.view_as_real.default:
            self.as_real(node)
        elif op is aten.view_as_complex.default:
            self.pairs[node] = tuple(self.call(aten.select.int, args[0], -1, i) for i in (0, 1))
        elif op is aten.complex.default:
            self.pairs[node] = args
        elif op in COPIES and _is_complex(node) and args[0] in self.pairs and same_dtype(node):
            self.pairs[node] = self.pairs[args[0]]
        elif node.op == "placeholder" and node.name in getattr(self.graph_module, "folded", {}):
            value = self.graph_module.folded[node.name]
            self.pairs[node] = tuple(self.constant(p.contiguous(), node, node.name) for p in (value.real, value.imag))
        else:
            raise NotLowered(f"{op} on complex numbers has no lowering")

    def call(self, op, *args, **kwargs):
        return call(self.graph, op, *args, **kwargs)

    def each(self, function, x) -> tuple:
        return tuple(function(part) for part in self.parts(x))

    def parts(self, x) -> tuple:
        """(real, imaginary) of an operand: nodes or numbers."""
        if isinstance(x, complex):
            return x.real, x.imag
        return self.pairs.get(x, (x, 0.0))

    def combine(self, op, a, b, shape):
        """One part of a sum or difference."""
        if not isinstance(a, torch.fx.Node):
            op, a, b = aten.add.Tensor, b if op is aten.add.Tensor else self.call(aten.neg.default, b), a
        part = self.call(op, a, b)
        return part if _shape(part) == shape else self.call(aten.expand.default, part, list(shape))

    def multiply(self, x, y) -> tuple:
        times = lambda a, b: self.call(aten.mul.Tensor, a, b)  # noqa: E731
        if x not in self.pairs:
            x, y = y, x
        real, imaginary = self.pairs[x]
        if not isinstance(y, complex) and y not in self.pairs:
            return times(real, y), times(imaginary, y)
        a, b = self.parts(y)
        return (
            self.call(aten.sub.Tensor, times(real, a), times(imaginary, b)),
            self.call(aten.add.Tensor, times(real, b), times(imaginary, a)),
        )

    def as_real(self, node) -> None:
        """Where only one part is taken out again, that part; the other then needs not be computed."""
        pair = self.pairs[node.args[0]]
        last = len(_shape(node)) - 1
        for user in list(node.users):
            if user.target is aten.select.int and user.args[1] in (-1, last):
                user.replace_all_uses_with(pair[user.args[2]])
                self.graph.erase_node(user)
        if node.users:
            node.replace_all_uses_with(self.call(aten.stack.default, list(pair), -1))

    # -- Fourier -------------------------------------------------------------------------------------------------

    def transform(self, node, inverse: bool, axes) -> tuple:
        names = [a.name for a in node.target._schema.arguments]
        given = dict(zip(names, node.args)) | node.kwargs
        x = given["self"]
        if given.get("n") is not None or given.get("s") is not None:
            raise NotLowered(f"{node.target} with a size has no lowering")
        default = -1 if axes == 1 else [-2, -1] if "2" in node.target.__name__ else None
        dims = given.get("dim", default)
        pair = self.pairs.get(x) or (x, None)
        for d in _axes([dims] if isinstance(dims, int) else dims, x):
            pair = self.along(pair, d, _shape(x)[d], inverse, given.get("norm"))
        return pair

    def along(self, pair, dim: int, n: int, inverse: bool, norm) -> tuple:
        real, imaginary = pair
        if real.meta["val"].dtype is not torch.float32:
            raise NotLowered(f"a Fourier transform of {real.meta['val'].dtype} has no lowering")
        cosine, sine = self.matrix(n, inverse, norm, real)

        def product(part, matrix):
            last = len(_shape(part)) - 1
            moved = part if dim == last else self.call(aten.transpose.int, part, dim, last)
            result = self.call(aten.matmul.default, moved, matrix)
            return result if dim == last else self.call(aten.transpose.int, result, dim, last)

        if imaginary is None:
            return product(real, cosine), product(real, sine)
        return (
            self.call(aten.sub.Tensor, product(real, cosine), product(imaginary, sine)),
            self.call(aten.add.Tensor, product(real, sine), product(imaginary, cosine)),
        )

    def matrix(self, n: int, inverse: bool, norm, like) -> tuple:
        """Placeholders of the real and the imaginary part of exp(∓2πi·jk/n), scaled."""
        key = n, inverse, norm
        if key not in self.matrices:
            with torch.inference_mode(False):
                j = torch.arange(n)
                angle = (j[:, None] * j % n).double() * (2 * math.pi / n) * (1 if inverse else -1)
                scale = {None: n if inverse else 1, "backward": n if inverse else 1, "forward": 1 if inverse else n,
                         "ortho": math.sqrt(n)}[norm]  # fmt: skip
                parts = [(f(angle) / scale).float() for f in (torch.cos, torch.sin)]
            self.matrices[key] = tuple(self.constant(p, like) for p in parts)
        return self.matrices[key]

    def constant(self, tensor, like, name="fourier"):
        return constant(self.graph_module, tensor, like.meta["val"], name)


def _is_complex(node) -> bool:
    val = node.meta.get("val")
    return isinstance(val, torch.Tensor) and val.dtype.is_complex


def _shape(node) -> tuple:
    return tuple(node.meta["val"].shape)


def _axes(dims, x) -> list[int]:
    rank = len(_shape(x))
    return list(range(rank)) if dims is None else [d % rank for d in dims]
