"""Walks a captured ATen graph and lowers every node through the registry into a Program."""

from __future__ import annotations

import operator
import re
from types import MappingProxyType

from ..errors import NotLowered, Refused, Unsupported, refusal
from ..interruptions import raise_if_scripts
from ..plugins import Registry
from .ascend.builder import AscendBuilder
from .builder import Builder, Program, Value
from .cost import Kept
from .host_call import HOST_ONLY, HostCall, host_call
from .liveness import keep

BUILDERS = {"Ascend": AscendBuilder}
"""target → builder, where it is not the CPU's."""

HOW_TO_ADD = (
    "add one with the hook register_lowerings (README, 'Adding a lowering'), "
    "or call enable(strict=True) to turn this into an error"
)


def lower(
    captured, registry: Registry, target, compute_dtype, without=(), held=MappingProxyType({}), cut=False, **options
) -> Program:
    """The Program of a captured graph.

    captured: :class:`~ms_controlnet_backend.capture.Captured`. compute_dtype: torch dtype → MindSpore dtype name.
    without: names of rewrites not to be made (:data:`.ascend.REWRITES`). held: as of :class:`.cost.Kept`. cut: an
    operator that cannot be lowered becomes a :class:`.host_call.HostCall`. options: what else the target's builder
    takes.
    Raises NotLowered, naming the overload and its schema, where an operator has no lowering or not for its arguments
    and the graph is not, or cannot be, cut there; also where nothing else would be left.
    """
    program = Program(captured.name)
    kept = Kept([w.tensor for w in captured.weights.values() if not w.constant], held)
    builder = BUILDERS.get(target, Builder)(program, target, compute_dtype, without, kept, **options)
    environment: dict = {}
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            environment[node] = _placeholder(node, captured, program, compute_dtype, cut)
        elif node.op == "call_function":
            environment[node] = _call(node, environment, registry, builder, cut)
        elif node.op == "output":
            program.outputs = [environment[n] for n in captured.outputs]
        else:
            raise Refused(f"graph node {node.op} {node.target}")
    program = builder.finish(keep(program, program.name, program.inputs, program.instructions, program.outputs))
    on_host = [i for i in program.instructions if isinstance(i, HostCall)]
    if on_host and len(on_host) == len(program.instructions):
        raise on_host[0].reason
    return program


def lower_for(target, captured, registry: Registry, held=MappingProxyType({}), cut=False) -> Program:
    """:func:`lower` as a :class:`~ms_controlnet_backend.runtime.target.Target` says."""
    return lower(captured, registry, target.device, target.compute_dtype, target.without, held, cut, **target.options)


def _placeholder(node, captured, program: Program, compute_dtype, cut: bool):
    if node in captured.objects:
        return captured.objects[node]
    val = node.meta["val"]
    weight = captured.weights.get(node)
    name = captured.structure.names[captured.inputs[node]] if weight is None else weight.name
    try:
        dtype = compute_dtype(val.dtype)
    except Refused:
        if not cut:
            raise
        dtype = HOST_ONLY
    value = Value(re.sub(r"\W", "_", name), tuple(val.shape), dtype)
    if weight is None:
        program.inputs.append(value)
        return value
    program.weights[value] = weight.tensor
    if weight.constant:
        program.constants.add(value)
    return value


def _call(node, environment, registry: Registry, builder: Builder, cut: bool):
    if node.target is operator.getitem:
        return environment[node.args[0]][node.args[1]]
    try:
        return _lowered(node, environment, registry, builder)
    except Exception as error:  # noqa: BLE001 - what a lowering raises costs its operator, not the graph
        raise_if_scripts(error)
        if not cut:
            raise
        known = isinstance(error, Refused)
        reason = str(error) if known else f"the lowering of {node.target} failed: {refusal(error)}; {HOW_TO_ADD}"
        return host_call(node, environment, builder, NotLowered(reason))  # the error itself holds on to the weights


def _lowered(node, environment, registry: Registry, builder: Builder):
    lowering = registry.lowering(node.target, builder.target)
    if lowering is None:
        raise NotLowered(f"no lowering for {describe(node.target)}; {HOW_TO_ADD}")
    for used in map(environment.get, node.all_input_nodes):
        values = used if isinstance(used, (list, tuple)) else [used]
        dtypes = [v.dtype for v in values if isinstance(v, Value)]
        if not dtypes or HOST_ONLY in dtypes:
            raise NotLowered(f"{describe(node.target)} of what only the host has is not lowered; {HOW_TO_ADD}")
    builder.out = _spec(node.meta.get("val"), builder.compute_dtype)
    builder.origin, builder.op = origin(node), str(node.target)
    args = arguments(node.target, node.args, node.kwargs, environment)
    try:
        result = lowering.function(builder, *args)
    except Unsupported as error:
        raise NotLowered(f"{describe(node.target)} with {error} is not lowered; {HOW_TO_ADD}") from error
    _check(node, result, builder)
    return result


def arguments(op, args, kwargs, environment) -> list:
    """The arguments in schema order with defaults filled in, graph nodes replaced by their values."""
    import torch

    def resolve(a):
        if isinstance(a, torch.fx.Node):
            return environment[a]
        if isinstance(a, (list, tuple)):
            return [resolve(x) for x in a]
        return a

    filled = []
    for i, argument in enumerate(op._schema.arguments):
        if i < len(args):
            filled.append(resolve(args[i]))
        elif argument.name in kwargs:
            filled.append(resolve(kwargs[argument.name]))
        elif argument.has_default_value():
            filled.append(argument.default_value)
        else:
            raise Refused(f"{op} is called without {argument.name}")
    return filled


def _spec(val, compute_dtype):
    """(shape, dtype) of a node's result as a Value without a name, or a list of them."""
    if isinstance(val, (list, tuple)):
        return [_spec(v, compute_dtype) for v in val]
    if val is None or not hasattr(val, "dtype"):
        return None
    return Value("", tuple(val.shape), compute_dtype(val.dtype))


def _check(node, result, builder: Builder) -> None:
    """A lowering whose result is not what torch infers is a bug of the lowering: never run it."""
    wanted, got = builder.out, result
    if isinstance(wanted, Value):
        wanted, got = [wanted], [result]
    for w, g in zip(wanted or [], got):
        if w is not None and g is not None and (w.shape, w.dtype) != (g.shape, g.dtype):
            raise NotLowered(
                f"the lowering of {node.target} returned {g.dtype}{list(g.shape)}, torch says {w.dtype}{list(w.shape)}"
            )


def describe(op) -> str:
    """ATen overload with its schema."""
    schema = getattr(op, "_schema", None)
    return f"{op} ({schema})" if schema is not None else str(op)


def origin(node) -> str:
    """Where the node comes from in the upstream module, for the comments of the generated source."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    path = re.sub(r"^.*?component\.?", "", path) if isinstance(path, str) else ""
    return f"{path}: {node.target}" if path else str(node.target)
