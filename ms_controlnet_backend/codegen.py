"""Program → readable MindSpore source: one Cell of straight-line code."""

from __future__ import annotations

import keyword
import re

from .lowering.liveness import values_in
from .lowering.program import DType, Instruction, Program, Value

PART = 100
"""Fewest instructions of a method. MindSpore's compile time grows with the square of a function's length: 2100
instructions took 7.0 s in one function and 1.9 s in parts of this size."""

# attributes that the primitive's constructor takes by position only
POSITIONAL = {"BroadcastTo": ("shape_",)}


def generate(header: str, **programs: Program) -> str:
    """Python source of a module with one class a program, named by the keyword: ``Class(weights)``.

    ``construct(*inputs)`` returns a tuple; a long one calls its parts in turn. weights: MindSpore Parameters in the
    program's order. Primitives are made once at the top of the module; ``mindspore.jit`` parses the source (AST
    capture), so it must be on disk. So are tuples of numbers: as literals in the code each of them was measured to cost
    a compile 10 ms and more.
    """
    primitives: dict[str, str] = {}
    tuples: dict[str, str] = {}
    classes = [line for name, program in programs.items() for line in _cell(name, program, primitives, tuples)]
    lines = [
        f'"""{header}"""',
        "import mindspore as ms",
        "from mindspore import mint, ops",
        "",
        *(f"{name} = ops.{constructor}" for constructor, name in primitives.items()),
        *(f"{name} = {literal}" for literal, name in tuples.items()),
        *classes,
        "",
    ]
    return "\n".join(lines)


def _cell(name: str, program: Program, primitives: dict[str, str], tuples: dict[str, str]) -> list[str]:
    names = _Names(program)
    listed = lambda values: "".join(f"{names[v]}, " for v in values).rstrip()  # noqa: E731
    parts = _parts(program.instructions)
    bodies = [_body(part, names, primitives, tuples) for part in parts]
    construct, methods = bodies[0] if bodies else [], []
    if len(parts) > 1:
        construct = []
        for i, (needs, gives) in enumerate(_crossing(parts, program)):
            arguments = listed(needs).rstrip(",")
            construct.append(f"        ({listed(gives)}) = self.part_{i}({arguments})")
            head = f"    def part_{i}(self{', ' * bool(needs)}{arguments}):"
            methods += ["", head, *bodies[i], f"        return ({listed(gives)})"]
    inputs = "".join(f", {names[v]}" for v in program.inputs)
    return [
        "",
        "",
        f"class {name}(ms.nn.Cell):",
        "    def __init__(self, weights):",
        "        super().__init__()",
        *(f"        {names[v]} = weights[{i}]" for i, v in enumerate(program.weights)),
        "",
        '    @ms.jit(capture_mode="ast")',
        f"    def construct(self{inputs}):",
        *construct,
        f"        return ({listed(program.outputs)})",
        *methods,
    ]


def _parts(instructions: list[Instruction]) -> list[list[Instruction]]:
    """Cut into runs of PART or a little more: the instructions of one operator stay together."""
    parts: list[list[Instruction]] = []
    for instruction in instructions:
        if not parts or (len(parts[-1]) >= PART and parts[-1][-1].origin != instruction.origin):
            parts.append([])
        parts[-1].append(instruction)
    return parts


def _crossing(parts: list[list[Instruction]], program: Program):
    """(values a part needs from before, values it makes that are needed after it), of each part."""
    used = [dict.fromkeys(v for i in part for v in values_in(i.args) if v not in program.weights) for part in parts]
    for n, part in enumerate(parts):
        made = dict.fromkeys(v for i in part for v in i.outputs)
        later = set(program.outputs).union(*used[n + 1 :])
        yield [v for v in used[n] if v not in made], [v for v in made if v in later]


def _body(instructions, names: _Names, primitives: dict[str, str], tuples: dict[str, str]) -> list[str]:
    body: list[str] = []
    origin = None
    for instruction in instructions:
        if instruction.origin != origin:
            origin = instruction.origin
            body.append(f"        # {origin}")
        args = [_render(a, names, tuples) for a in instruction.args]
        if "." in instruction.callee:
            callee = instruction.callee
            args += [f"{k}={_render(v, names, tuples)}" for k, v in instruction.attributes.items()]
        else:
            callee = _primitive(instruction, primitives)
        targets = ", ".join(names[v] for v in instruction.outputs)
        body.append(f"        {targets} = {callee}({', '.join(args)})")
    return body


class _Names(dict):
    """Value → its name in the source, unique and never a keyword; weights are attributes of the Cell."""

    def __init__(self, program: Program):
        super().__init__()
        self._used = {
            "self",
            "weights",
            "ms",
            "ops",
            "mint",
        }  # names of tuples and primitives begin with a capital letter
        for v in program.inputs:
            self[v] = self._unique(v.name)
        for v in program.weights:
            self[v] = "self." + self._unique("w_" + v.name)
        for instruction in program.instructions:
            for v in instruction.outputs:
                self[v] = self._unique(v.name)

    def _unique(self, name: str) -> str:
        if keyword.iskeyword(name):
            name += "_"
        candidate, n = name, 1
        while candidate in self._used:
            n += 1
            candidate = f"{name}_{n}"
        self._used.add(candidate)
        return candidate


def _primitive(instruction, primitives: dict[str, str]) -> str:
    positional = POSITIONAL.get(instruction.callee, ())
    attributes = ", ".join(repr(v) if k in positional else f"{k}={v!r}" for k, v in instruction.attributes.items())
    constructor = f"{instruction.callee}({attributes})"
    if constructor not in primitives:
        taken = sum(1 for known in primitives if known.startswith(f"{instruction.callee}("))
        primitives[constructor] = f"{instruction.callee}_{taken}" if taken else instruction.callee
    return primitives[constructor]


def _render(a, names: _Names, tuples: dict[str, str]) -> str:
    if isinstance(a, Value):
        return names[a]
    if isinstance(a, DType):
        return f"ms.{'bool_' if a.name == 'bool' else a.name}"
    if isinstance(a, (list, tuple)):
        if all(isinstance(x, (int, float)) for x in a):
            return _tuple(a, tuples)
        items = ", ".join(_render(x, names, tuples) for x in a)
        return f"({items},)" if len(a) == 1 else f"({items})"
    return repr(a)


def _tuple(a, tuples: dict[str, str]) -> str:
    """The name of a tuple of numbers: ``(2, 64)`` is ``T_2_64``."""
    name = "T_" + re.sub(r"\W", "_", "_".join(str(x) for x in a).replace("-", "m"))
    literal = repr(tuple(a))
    taken = name in tuples.values() and tuples.get(literal) != name
    return tuples.setdefault(literal, f"{name}_{len(tuples)}" if taken else name)
