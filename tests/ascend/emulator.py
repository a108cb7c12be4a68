"""A program for Ascend, computed with torch: each primitive as MindSpore documents it, within the limits it documents.

Written from MindSpore's documentation and signatures, not from the lowerings: a wrong order of arguments, layout, mask,
padding or scale in a lowering gives another result here or fails.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ms_controlnet_backend.lowering.program import DType, Value

NUMBERS = (bool, int, float)


def run(program, inputs: list, target) -> list:
    """The outputs. inputs: torch tensors in the order of the program's. Shapes and dtypes are checked against what the
    program says of every value."""
    values = {v: t.to(target.host_dtype(t.dtype)) for v, t in zip(program.inputs, inputs, strict=True)}
    for v, t in program.weights.items():
        t = t.detach().to(target.host_dtype(t.dtype))
        prepare = program.prepared.get(v)
        values[v] = (t if prepare is None else prepare(t)).contiguous().reshape(v.shape)
    for instruction in program.instructions:
        args = [_resolve(a, values) for a in instruction.args]
        result = PRIMITIVES[instruction.callee](*args, **instruction.attributes)
        results = result if isinstance(result, tuple) else (result,)
        for v, t in zip(instruction.outputs, results, strict=True):
            said = v.shape, v.dtype
            assert (tuple(t.shape), _name(t.dtype)) == said, f"{instruction.origin}: {instruction.callee} is not {said}"
            values[v] = t
    return [values[v] for v in program.outputs]


def _resolve(a, values):
    if isinstance(a, Value):
        return values[a]
    if isinstance(a, DType):
        return getattr(torch, a.name)
    return tuple(_resolve(x, values) for x in a) if isinstance(a, (list, tuple)) else a


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


PRIMITIVES = {}


def primitive(*names):
    def declare(function):
        PRIMITIVES.update(dict.fromkeys(names, function))
        return function

    return declare


# -- elementwise ---------------------------------------------------------------------------------------------------

for _name_of, _function in {
    "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Sin": torch.sin, "Cos": torch.cos, "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid, "Erf": torch.erf, "ReLU": torch.relu, "Floor": torch.floor, "Log": torch.log,
    "Sqrt": torch.sqrt, "Rsqrt": torch.rsqrt, "LogicalNot": torch.logical_not, "mint.nn.functional.silu": F.silu,
}.items():  # fmt: skip
    PRIMITIVES[_name_of] = _function


def _binary(function):
    """Operands of one dtype; a Python number takes the tensor's."""

    def compute(x, y):
        like = x if isinstance(x, torch.Tensor) else y
        x, y = (torch.tensor(a, dtype=like.dtype) if isinstance(a, NUMBERS) else a for a in (x, y))
        assert x.dtype == y.dtype, f"{x.dtype} with {y.dtype}"
        return function(x, y)

    return compute


for _name_of, _function in {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "RealDiv": torch.true_divide,
    "mint.div": torch.true_divide, "Maximum": torch.maximum,
    "Minimum": torch.minimum, "Pow": torch.pow, "Equal": torch.eq, "NotEqual": torch.ne, "Less": torch.lt,
    "LessEqual": torch.le, "Greater": torch.gt, "GreaterEqual": torch.ge, "LogicalAnd": torch.logical_and,
    "LogicalOr": torch.logical_or,
}.items():  # fmt: skip
    PRIMITIVES[_name_of] = _binary(_function)


@primitive("Cast")
def cast(x, dtype):
    return x.to(dtype)


@primitive("Depend")
def depend(x, done):
    return x


@primitive("Select")
def select(condition, x, y):
    assert condition.dtype == torch.bool and x.dtype == y.dtype
    return torch.where(condition, x, y)


@primitive("mint.nn.functional.gelu")
def gelu(x, *, approximate="none"):
    return F.gelu(x, approximate=approximate)


# -- shapes --------------------------------------------------------------------------------------------------------


@primitive("Reshape")
def reshape(x, shape):
    return x.reshape(shape)


@primitive("Transpose")
def transpose(x, order):
    return x.permute(order)


@primitive("BroadcastTo")
def broadcast_to(x, *, shape_):
    return x.expand(shape_)


@primitive("Tile")
def tile(x, repeats):
    assert len(repeats) >= x.ndim
    return x.repeat(repeats)


@primitive("Concat")
def concat(xs, *, axis):
    assert len({x.dtype for x in xs}) == 1
    return torch.cat(xs, axis)


@primitive("ops.auto_generate.slice_ext_op")
def slice_ext(x, axis, start, stop, step):
    assert step == 1 and 0 <= start < stop <= x.shape[axis]
    return x.narrow(axis, start, stop - start)


@primitive("ReverseV2")
def reverse(x, *, axis):
    return x.flip(axis)


@primitive("mint.nn.functional.pad")
def pad(x, pads, mode, value):
    assert mode == "constant" and min(pads) >= 0
    return F.pad(x, pads, mode, value)


# -- look-ups ------------------------------------------------------------------------------------------------------


@primitive("mint.index_select")
def index_select(x, axis, index):
    assert index.ndim == 1 and index.dtype in (torch.int32, torch.int64)
    return x.index_select(axis, index)


@primitive("mint.nn.functional.embedding")
def embedding(indices, weight):
    assert indices.dtype in (torch.int32, torch.int64)
    return weight[indices.long()]


@primitive("GatherD")
def gather(x, axis, index):
    return x.gather(axis, index.long())


@primitive("mint.cumsum")
def cumsum(x, axis):
    return x.cumsum(axis)  # of int32 it is int64, as torch's


@primitive("mint.argmax")
def argmax(x, axis):
    assert x.is_floating_point()
    return x.argmax(axis)


# -- reductions ----------------------------------------------------------------------------------------------------


@primitive("mint.sum")
def sum_of(x, axes, keepdim):
    return x.sum(axes, keepdim)


@primitive("mint.mean")
def mean(x, axes, keepdim):
    return x.mean(axes, keepdim)


def _reduction(function):
    return lambda x, axes, *, keep_dims: function(x, axes, keep_dims)


for _name_of, _function in {
    "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin, "ReduceAny": torch.any,
    "ReduceAll": torch.all,
}.items():  # fmt: skip
    PRIMITIVES[_name_of] = _reduction(_function)


@primitive("Softmax")
def softmax(x, *, axis):
    return x.softmax(axis)


@primitive("LogSoftmax")
def log_softmax(x, *, axis):
    return x.log_softmax(axis)


# -- products and convolutions ---------------------------------------------------------------------------------------


@primitive("MatMul", "BatchMatMul")
def matmul(x, y, *, transpose_a=False, transpose_b=False):
    assert x.dtype == y.dtype
    return (x.mT if transpose_a else x) @ (y.mT if transpose_b else y)


@primitive("mint.nn.functional.linear")
def linear(x, weight, bias):
    return F.linear(x, weight, bias)


@primitive("ops.auto_generate.grouped_matmul_v4")
def grouped_matmul(xs, weights, biases):
    """One product a tensor of x; no group_list: split_item 0, group_type -1. weight: (K, N)."""
    biases = (None,) * len(xs) if biases is None else biases
    assert 1 <= len(xs) == len(weights) == len(biases) <= 128
    for x, w, b in zip(xs, weights, biases):
        assert 2 <= x.ndim <= 6 and w.ndim == 2 and x.dtype == w.dtype and max(x.shape[-1], w.shape[-1]) < 65536
        assert x.dtype == torch.float16 or x.dtype == torch.bfloat16
        assert b is None or (b.ndim == 1 and b.dtype == {torch.float16: torch.float16}.get(x.dtype, torch.float32))
    return tuple(F.linear(x, w.t(), b) for x, w, b in zip(xs, weights, biases))


@primitive("mint.addmm")
def addmm(bias, x, y):
    return torch.addmm(bias, x, y)


@primitive("mint.baddbmm")
def baddbmm(bias, x, y, *, beta, alpha):
    return torch.baddbmm(bias, x, y, beta=beta, alpha=alpha)


@primitive("mint.nn.functional.conv2d")
def conv2d(x, weight, bias, stride, padding, dilation, groups):
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


@primitive("mint.nn.functional.conv_transpose2d")
def conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation):
    return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)


@primitive("mint.nn.functional.interpolate")
def interpolate(x, size, scale_factor, mode, align_corners=None):
    assert (size is None) != (scale_factor is None)
    return F.interpolate(x, size, scale_factor, mode, align_corners)


# -- normalisations ------------------------------------------------------------------------------------------------


@primitive("mint.nn.functional.group_norm")
def group_norm(x, groups, weight, bias, eps):
    assert weight.dtype == bias.dtype == x.dtype
    return F.group_norm(x, groups, weight, bias, eps)


@primitive("mint.nn.functional.layer_norm")
def layer_norm(x, shape, weight, bias, eps):
    return F.layer_norm(x, shape, weight, bias, eps)


@primitive("ops.auto_generate.add_layernorm_v2")
def add_layer_norm(x1, x2, gamma, beta, eps, additional_out):
    """(normalised, mean, 1 / standard deviation, sum): the sum is returned only if asked for."""
    assert additional_out and x1.shape == x2.shape and gamma.ndim == 1
    total = x1 + x2
    wide = total.float()
    moment = wide.mean(-1, keepdim=True)
    spread = (wide.var(-1, correction=0, keepdim=True) + eps).rsqrt()
    return F.layer_norm(total, gamma.shape, gamma, beta, eps), moment, spread, total


# -- attention -----------------------------------------------------------------------------------------------------


def _attend(q, k, v, left_out, scale):
    """Softmax(Mask(scale * query key)) value of (B, N, S, D), in float32, as the kernels' softmax; True is left out."""
    assert q.shape[-1] % 16 == 0 and q.shape[-1] <= 512 and q.shape[1] <= 256
    scores = q.float() @ k.float().mT * scale
    if left_out is not None:
        scores = scores.masked_fill(left_out.bool(), float("-inf"))
    return (scores.softmax(-1) @ v.float()).to(q.dtype)


@primitive("ops.flash_attention_score")
def flash_attention_score(
    query, key, value, head_num, real_shift, drop_mask, padding_mask, attn_mask, prefix, actual_seq_qlen,
    actual_seq_kvlen, keep_prob, scalar_value, pre_tokens, next_tokens, inner_precise, input_layout, sparse_mode,
):  # fmt: skip
    assert {x.dtype for x in (query, key, value)} <= {torch.float16, torch.bfloat16}
    assert real_shift is drop_mask is padding_mask is prefix is actual_seq_qlen is actual_seq_kvlen is None
    assert (keep_prob, inner_precise, sparse_mode) == (1.0, 0, 0) and pre_tokens == next_tokens == 2**31 - 1
    assert key.shape == value.shape
    if input_layout == "BSH":
        q, k, v = (x.unflatten(-1, (head_num, -1)).transpose(1, 2) for x in (query, key, value))
    else:
        assert input_layout == "BNSD" and query.shape[1] == head_num
        q, k, v = query, key, value
    (batch, heads, queries, _), keys = q.shape, k.shape[2]
    if attn_mask is not None:
        assert attn_mask.dtype in (torch.bool, torch.uint8)
        allowed = (queries, keys), (batch, 1, queries, keys), (batch, heads, queries, keys)
        assert tuple(attn_mask.shape) in allowed, attn_mask.shape
    y = _attend(q, k, v, attn_mask, scalar_value)
    return y.transpose(1, 2).flatten(2) if input_layout == "BSH" else y


@primitive("ops.prompt_flash_attention")
def prompt_flash_attention(
    query, key, value, attn_mask=None, actual_seq_lengths=None, actual_seq_lengths_kv=None, pse_shift=None,
    deq_scale1=None, quant_scale1=None, deq_scale2=None, quant_scale2=None, quant_offset2=None, num_heads=1,
    scale_value=1.0, pre_tokens=2147483647, next_tokens=0, input_layout="BSH", num_key_value_heads=0, sparse_mode=0,
    inner_precise=1,
):  # fmt: skip
    """As CANN documents it for the 310P (aclnnPromptFlashAttentionV3)."""
    assert query.dtype == key.dtype == value.dtype == torch.float16 and query.shape[0] <= 128
    assert actual_seq_lengths is actual_seq_lengths_kv is pse_shift is deq_scale1 is quant_scale1 is None
    assert deq_scale2 is quant_scale2 is quant_offset2 is None and input_layout == "BSH"
    assert (num_key_value_heads, sparse_mode, inner_precise) == (0, 0, 0) and pre_tokens == 2**31 - 1
    assert next_tokens in (0, 2**31 - 1)
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    batch, queries, keys = len(q), q.shape[2], k.shape[2]
    if attn_mask is not None:
        assert attn_mask.dtype == torch.bool and queries == keys and queries % 128 == 0
        assert tuple(attn_mask.shape) in ((queries, keys), (batch, 1, queries, keys))
        if next_tokens == 0:  # only then does it take part: without a mask it is ignored
            attn_mask = attn_mask | torch.ones(queries, keys, dtype=torch.bool).triu(1)
    return _attend(q, k, v, attn_mask, scale_value).transpose(1, 2).flatten(2)
