"""Program → readable MindSpore source: one Cell whose ``construct`` is straight-line code."""

from __future__ import annotations

import keyword

from .lowering.builder import DType, Program, Value

# attributes that the primitive's constructor takes by position only
POSITIONAL = {"BroadcastTo": ("shape_",)}


def generate(header: str, **programs: Program) -> str:
    """Python source of a module with one class a program, named by the keyword: ``Class(weights)``.

    ``construct(*inputs)`` returns a tuple. weights: MindSpore Parameters in the program's order. Primitives are made
    once at the top of the module; ``mindspore.jit`` parses the source (AST capture), so it must be on disk.
    """
    primitives: dict[str, str] = {}
    classes = [line for name, program in programs.items() for line in _cell(name, program, primitives)]
    lines = [
        f'"""{header}"""',
        "import mindspore as ms",
        "from mindspore import mint, ops",
        "",
        *(f"{name} = ops.{constructor}" for constructor, name in primitives.items()),
        *classes,
        "",
    ]
    return "\n".join(lines)


def _cell(name: str, program: Program, primitives: dict[str, str]) -> list[str]:
    names = _Names(program)
    body: list[str] = []
    origin = None
    for instruction in program.instructions:
        if instruction.origin != origin:
            origin = instruction.origin
            body.append(f"        # {origin}")
        args = [_render(a, names) for a in instruction.args]
        if "." in instruction.callee:
            callee = instruction.callee
            args += [f"{k}={_render(v, names)}" for k, v in instruction.attributes.items()]
        else:
            callee = _primitive(instruction, primitives)
        targets = ", ".join(names[v] for v in instruction.outputs)
        body.append(f"        {targets} = {callee}({', '.join(args)})")
    inputs = "".join(f", {names[v]}" for v in program.inputs)
    outputs = "".join(f"{names[v]}, " for v in program.outputs).rstrip()
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
        *body,
        f"        return ({outputs})",
    ]


class _Names(dict):
    """Value → its name in the source, unique and never a keyword; weights are attributes of the Cell."""

    def __init__(self, program: Program):
        super().__init__()
        self._used = {"self", "weights", "ms", "ops", "mint"}
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


def _render(a, names: _Names) -> str:
    if isinstance(a, Value):
        return names[a]
    if isinstance(a, DType):
        return f"ms.{'bool_' if a.name == 'bool' else a.name}"
    if isinstance(a, (list, tuple)):
        items = ", ".join(_render(x, names) for x in a)
        return f"({items},)" if len(a) == 1 else f"({items})"
    return repr(a)
