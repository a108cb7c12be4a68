"""Elementwise operators, comparisons and casts."""

from __future__ import annotations

import math

import torch

from ..errors import Unsupported
from ..hookspecs import Sample
from . import Family
from .builder import Value
from .samples import t

aten = torch.ops.aten
family = Family()
lowers = family.lowers

UNARY = {
    aten.abs.default: "Abs",
    aten.neg.default: "Neg",
    aten.exp.default: "Exp",
    aten.sin.default: "Sin",
    aten.cos.default: "Cos",
    aten.tanh.default: "Tanh",
    aten.sigmoid.default: "Sigmoid",
    aten.erf.default: "Erf",
    aten.relu.default: "ReLU",
    aten.floor.default: "Floor",
}
UNARY_POSITIVE = {aten.log.default: "Log", aten.sqrt.default: "Sqrt", aten.rsqrt.default: "Rsqrt"}


def _unary(name: str):
    def lower(b, x):
        return b.unary(name, x, b.out.dtype)

    return lower


for _op, _name in UNARY.items():
    lowers(_op, samples=[(t(2, 3, 5),), (t(),)])(_unary(_name))
for _op, _name in UNARY_POSITIVE.items():
    lowers(_op, samples=[(t(2, 3, 5, kind="positive"),)])(_unary(_name))

BINARY = {
    aten.mul: "Mul",
    aten.div: "RealDiv",
    aten.maximum: "Maximum",
    aten.minimum: "Minimum",
}


def _binary(name: str):
    def lower(b, x, y):
        return b.binary(name, x, y, b.out.dtype)

    return lower


for _packet, _name in BINARY.items():
    _tensor = getattr(_packet, "Tensor", None) or _packet.default
    lowers(_tensor, samples=[(t(2, 3, 5), t(3, 1)), (t(2, 3), t()), (t(2, 3), t(2, 3, kind="positive"))])(
        _binary(_name)
    )
for _op, _name in {aten.mul.Scalar: "Mul", aten.div.Scalar: "RealDiv"}.items():
    lowers(_op, samples=[(t(2, 3, 5), 1.5)])(_binary(_name))


@lowers(aten.add.Tensor, samples=[(t(2, 3, 5), t(3, 1)), (t(2, 3), 1.5), (t(4, kind="int"), t(4, kind="int"))])
@lowers(aten.add.Scalar, samples=[(t(2, 3), 1.5), (t(3, kind="int"), 2)])
def add(b, x, y, alpha):
    return _add("Add", b, x, y, alpha)


@lowers(aten.sub.Tensor, samples=[(t(2, 3, 5), t(3, 1)), (t(2, 3), 1.5)])
@lowers(aten.sub.Scalar, samples=[(t(2, 3), 1.5)])
def sub(b, x, y, alpha):
    return _add("Sub", b, x, y, alpha)


@lowers(aten.rsub.Scalar, samples=[(t(2, 3), 1.0), (t(2, 3), 1.0, 2)])
@lowers(aten.rsub.Tensor, samples=[(t(2, 3), t(2, 3))])
def rsub(b, x, y, alpha):
    return _add("Sub", b, y, x, alpha)


def _add(name, b, x, y, alpha):
    if alpha != 1:
        y = b.binary("Mul", y, alpha, b.out.dtype) if isinstance(y, Value) else y * alpha
    return b.binary(name, x, y, b.out.dtype)


@lowers(
    aten.div.Tensor_mode,
    samples=[Sample((t(2, 3, 5), t(5)), {"rounding_mode": m}) for m in ("floor", None)],
)
def div_mode(b, x, y, rounding_mode):
    if rounding_mode is None:
        return b.binary("RealDiv", x, y, b.out.dtype)
    if rounding_mode == "floor" and b.out.is_float:
        return b.unary("Floor", b.binary("RealDiv", x, y, b.out.dtype))
    raise Unsupported(f"rounding_mode={rounding_mode!r} in {b.out.dtype}")


@lowers(
    aten.pow.Tensor_Scalar, samples=[(t(2, 3), 2), (t(2, 3, kind="positive"), 0.5), (t(2, 3, kind="positive"), 1.7)]
)
@lowers(aten.pow.Tensor_Tensor, samples=[(t(2, 3, kind="positive"), t(2, 3))])
def power(b, x, exponent):
    x = b.cast(x, b.out.dtype)
    if exponent == 2:
        return b.mul(x, x)
    if exponent == 0.5:
        return b.unary("Sqrt", x)
    return b.binary("Pow", x, exponent)


@lowers(aten.pow.Scalar, samples=[(2.0, t(2, 3))])
def power_of_scalar(b, base, exponent):
    if base <= 0:
        raise Unsupported(f"base {base}")
    return b.unary("Exp", b.binary("Mul", exponent, math.log(base), b.out.dtype))


COMPARISONS = {
    aten.eq: "Equal",
    aten.ne: "NotEqual",
    aten.lt: "Less",
    aten.le: "LessEqual",
    aten.gt: "Greater",
    aten.ge: "GreaterEqual",
}


def _comparison(name: str):
    def lower(b, x, y):
        return b.binary(name, x, y, _common(x, y), "bool")

    return lower


def _common(x, y) -> str:
    """The dtype two operands are compared in."""
    dtypes = {a.dtype for a in (x, y) if isinstance(a, Value)}
    if any(isinstance(a, float) for a in (x, y)) and not any(d.startswith(("float", "bfloat")) for d in dtypes):
        return "float32"
    for dtype in ("float64", "float32", "bfloat16", "float16", "int64", "int32"):
        if dtype in dtypes:
            return dtype
    return "int32" if dtypes == {"bool"} else next(iter(dtypes))


for _packet, _name in COMPARISONS.items():
    _i = t(4, 5, kind="int", high=3)
    lowers(_packet.Tensor, samples=[(_i, t(5, kind="int", high=3)), (t(4, 5), t(4, 5)), (_i, t(4, 5))])(
        _comparison(_name)
    )
    lowers(_packet.Scalar, samples=[(_i, 1), (t(4, 5), 0.1)])(_comparison(_name))

LOGIC = {
    (aten.logical_and.default, aten.__and__.Tensor, aten.bitwise_and.Tensor): "LogicalAnd",
    (aten.logical_or.default, aten.__or__.Tensor, aten.bitwise_or.Tensor): "LogicalOr",
}


def _logic(name: str):
    def lower(b, x, y):
        if b.out.dtype != "bool":
            raise Unsupported(f"bits of {b.out.dtype}")
        return b.binary(name, truth(b, x), truth(b, y), "bool")

    return lower


def truth(b, x):
    """x as booleans."""
    return x if x.dtype == "bool" else b.binary("NotEqual", x, 0, result="bool")


for _ops, _name in LOGIC.items():
    lowers(*_ops, samples=[(t(4, 5, kind="bool"), t(5, kind="bool"))])(_logic(_name))


@lowers(aten.logical_not.default, aten.bitwise_not.default, samples=[(t(4, 5, kind="bool"),)])
def logical_not(b, x):
    if b.out.dtype != "bool":
        raise Unsupported(f"bits of {b.out.dtype}")
    return b.call("LogicalNot", truth(b, x))


@lowers(aten.where.self, samples=[(t(4, 5, kind="bool"), t(4, 5), t(5)), (t(4, 1, kind="bool"), t(), t(4, 5))])
@lowers(aten.where.ScalarOther, samples=[(t(4, 5, kind="bool"), t(4, 5), -1.0)])
@lowers(aten.where.ScalarSelf, samples=[(t(4, 5, kind="bool"), -1.0, t(4, 5))])
@lowers(aten.where.Scalar, samples=[(t(4, 5, kind="bool"), -1.0, float("-inf"))])
def where(b, condition, x, y):
    x, y = (
        b.broadcast(b.cast(a, b.out.dtype), b.out.shape)
        if isinstance(a, Value)
        else b.full(b.out.shape, a, b.out.dtype)
        for a in (x, y)
    )
    return b.call("Select", b.broadcast(truth(b, condition), b.out.shape), x, y, shape=x.shape, dtype=x.dtype)


@lowers(aten.masked_fill.Scalar, samples=[(t(4, 5), t(5, kind="bool"), float("-inf"))])
@lowers(aten.masked_fill.Tensor, samples=[(t(4, 5), t(5, kind="bool"), t())])
def masked_fill(b, x, mask, value):
    return where(b, mask, value, x)


@lowers(aten.clamp.default, samples=[(t(4, 5), -0.5, 0.5), (t(4, 5), None, 0.5), (t(4, 5), 0.0)])
def clamp(b, x, low, high):
    x = b.cast(x, b.out.dtype)
    x = x if low is None else b.binary("Maximum", x, low)
    return x if high is None else b.binary("Minimum", x, high)


@lowers(aten.clamp_min.default, samples=[(t(4, 5), 0.1)])
def clamp_min(b, x, low):
    return clamp(b, x, low, None)


@lowers(aten.clamp_max.default, samples=[(t(4, 5), 0.1)])
def clamp_max(b, x, high):
    return clamp(b, x, None, high)


@lowers(aten.silu.default, samples=[(t(2, 3, 5),)])
def silu(b, x):
    return b.mul(x, b.unary("Sigmoid", x))


@lowers(aten.gelu.default, samples=[(t(2, 3, 5),), Sample((t(2, 3, 5),), {"approximate": "tanh"})])
def gelu(b, x, approximate):
    """x * Phi(x), exact by erf, or the tanh approximation (Hendrycks & Gimpel, arXiv 1606.08415)."""
    if approximate == "tanh":
        inner = b.mul(b.mul(x, b.add(b.mul(b.mul(x, x), 0.044715), 1.0)), math.sqrt(2 / math.pi))
        return b.mul(b.mul(x, 0.5), b.add(b.unary("Tanh", inner), 1.0))
    return b.mul(b.mul(x, 0.5), b.add(b.unary("Erf", b.mul(x, math.sqrt(0.5))), 1.0))


@lowers(aten.leaky_relu.default, samples=[(t(4, 5), 0.2)])
def leaky_relu(b, x, slope):
    return b.add(b.unary("ReLU", x), b.mul(b.binary("Minimum", x, 0.0), slope))


@lowers(aten.elu.default, samples=[(t(4, 5),), (t(4, 5), 1.5)])
def elu(b, x, alpha, scale, input_scale):
    below = b.mul(b.sub(b.unary("Exp", b.mul(b.binary("Minimum", x, 0.0), input_scale)), 1.0), alpha)
    return b.mul(b.add(b.unary("ReLU", x), below), scale)


@lowers(aten.hardtanh.default, samples=[(t(4, 5), -0.3, 0.4)])
def hardtanh(b, x, low, high):
    return clamp(b, x, low, high)


@lowers(aten.softplus.default, samples=[(t(4, 5),)])
def softplus(b, x, beta, threshold):
    scaled = b.mul(x, beta)
    soft = b.div(b.unary("Log", b.add(b.unary("Exp", b.binary("Minimum", scaled, threshold)), 1.0)), beta)
    return b.call(
        "Select", b.binary("Greater", scaled, threshold, result="bool"), x, soft, shape=x.shape, dtype=x.dtype
    )


# -- casts and copies --------------------------------------------------------------------------------------------


@lowers(aten.to.dtype, samples=[(t(4, 5), torch.int64), (t(4, kind="int"), torch.float32), (t(4, 5), torch.bool)])
def to_dtype(b, x, dtype, non_blocking, copy, memory_format):
    return _to(b, x)


@lowers(aten._to_copy.default, samples=[(t(4, kind="int"),)])
def to_copy(b, x, dtype, layout, device, pin_memory, non_blocking, memory_format):
    return _to(b, x)


@lowers(aten.to.dtype_layout, samples=[(t(4, kind="int"),)])
def to_dtype_layout(b, x, dtype, layout, device, pin_memory, non_blocking, copy, memory_format):
    return _to(b, x)


@lowers(aten.to.device, samples=[(t(4, kind="int"), torch.device("cpu"), torch.float32)])
def to_device(b, x, device, dtype, non_blocking, copy, memory_format):
    return _to(b, x)


@lowers(aten.to.other, samples=[(t(4, kind="int"), t(3))])
def to_other(b, x, other, non_blocking, copy, memory_format):
    return _to(b, x)


@lowers(aten.type_as.default, samples=[(t(4, kind="int"), t(3))])
def type_as(b, x, other):
    return _to(b, x)


def _to(b, x):
    if b.out.dtype == "bool":
        return truth(b, x)
    return b.cast(x, b.out.dtype)


@lowers(aten.clone.default, aten.contiguous.default, samples=[(t(4, 5),)])
def clone(b, x, memory_format):
    return x


@lowers(aten.alias.default, aten.detach.default, samples=[(t(4, 5),)])
def alias(b, x):
    return x


@lowers(aten.dropout.default, samples=[(t(4, 5), 0.0, True), (t(4, 5), 0.5, False)])
def dropout(b, x, p, train):
    if train and p > 0:
        raise Unsupported(f"p={p} in training mode (random numbers would differ from torch's; call .eval())")
    return x


@lowers(aten.zeros_like.default, samples=[(t(4, 5),)])
def zeros_like(b, x, dtype, layout, device, pin_memory, memory_format):
    return b.full(b.out.shape, 0, b.out.dtype)


@lowers(aten.ones_like.default, samples=[(t(4, 5),)])
def ones_like(b, x, dtype, layout, device, pin_memory, memory_format):
    return b.full(b.out.shape, 1, b.out.dtype)


@lowers(aten.full_like.default, samples=[(t(4, 5), 2.5)])
def full_like(b, x, value, dtype, layout, device, pin_memory, memory_format):
    return b.full(b.out.shape, value, b.out.dtype)


@lowers(aten.zeros.default, samples=[([2, 3],)])
def zeros(b, size, dtype, layout, device, pin_memory):
    return b.full(b.out.shape, 0, b.out.dtype)


@lowers(aten.ones.default, samples=[([2, 3],)])
def ones(b, size, dtype, layout, device, pin_memory):
    return b.full(b.out.shape, 1, b.out.dtype)


@lowers(aten.full.default, samples=[([2, 3], 2.5)])
def full(b, size, value, dtype, layout, device, pin_memory):
    return b.full(b.out.shape, value, b.out.dtype)


@lowers(aten.fill.Scalar, samples=[(t(4, 5), 2.5)])
def fill(b, x, value):
    return b.full(b.out.shape, value, b.out.dtype)


@lowers(aten.fill.Tensor, samples=[(t(4, 5), t())])
def fill_tensor(b, x, value):
    return b.broadcast(b.cast(value, b.out.dtype), b.out.shape)


@lowers(aten.new_ones.default, samples=[(t(4, 5), [2, 3])])
def new_ones(b, x, size, dtype, layout, device, pin_memory):
    return b.full(b.out.shape, 1, b.out.dtype)


@lowers(aten.new_zeros.default, samples=[(t(4, 5), [2, 3])])
def new_zeros(b, x, size, dtype, layout, device, pin_memory):
    return b.full(b.out.shape, 0, b.out.dtype)


@lowers(aten.new_full.default, samples=[(t(4, 5), [2, 3], 2.5)])
def new_full(b, x, size, value, dtype, layout, device, pin_memory):
    return b.full(b.out.shape, value, b.out.dtype)
