"""The command ``ms-controlnet``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from . import __version__
from .errors import BackendError

REDIRECT = "let the script's CUDA and NPU calls mean the CPU (default: if torch has neither here)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ms-controlnet", description="Unchanged diffusers scripts on MindSpore.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run a script with the backend enabled")
    run.add_argument("--device", help="cpu, ascend or ascend:NUMBER (default: ascend where there is one)")
    run.add_argument("--backend", default="mindspore", help="mindspore, torch or a plugin's")
    run.add_argument("--strict", action="store_true", help="fail where a component cannot be compiled")
    run.add_argument("--redirect", action=argparse.BooleanOptionalAction, help=REDIRECT)
    run.add_argument("-v", "--verbose", action="store_true", help="say what is compiled")
    run.add_argument("script", type=Path)
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own arguments")
    run.set_defaults(function=_run)

    compare = commands.add_parser(
        "compare", help="run a script's pipeline calls on two backends: the same pictures? Exit code 1 if not"
    )
    compare.add_argument("--backends", default="torch,mindspore", help="two, the reference first (%(default)s)")
    compare.add_argument("--device", help="cpu or ascend, of backends other than torch")
    compare.add_argument("--redirect", action=argparse.BooleanOptionalAction, help=REDIRECT)
    compare.add_argument("--repeats", type=int, default=1, help="measured runs a side, after the first (%(default)s)")
    compare.add_argument(
        "--shadow",
        action="store_true",
        help="also run each component on both sides from the same inputs; names the first that differs",
    )
    compare.add_argument("--bisect", action="store_true", help="--shadow, and the first differing operator in it")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write the report, one self-contained file")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    compare.add_argument("script", type=Path, help="options go before it")
    compare.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own arguments")
    compare.set_defaults(function=_compare)

    demo = commands.add_parser("demo", help="draw pictures on torch and MindSpore and compare them; no network needed")
    demo.add_argument("--output", type=Path, default=Path("ms-controlnet-demo"), help="folder of the pictures")
    demo.add_argument("--prompt")
    demo.add_argument("--control", type=Path, help="a picture whose edges control the drawing")
    demo.add_argument("--steps", type=int, default=10)
    demo.add_argument("--device")
    demo.set_defaults(function=_demo)

    coverage = commands.add_parser(
        "coverage", help="what would be compiled of a pipeline, and how; exit code 1 if a component stays on torch"
    )
    coverage.add_argument("--size", type=int, default=512, help="of the picture (%(default)s)")
    coverage.add_argument("--controlnet", help="where MODEL has none: the folder of one")
    coverage.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    _add_target(coverage)
    coverage.add_argument("model", metavar="MODEL", help="folder of a pipeline (save_pretrained)")
    coverage.set_defaults(function=_coverage)

    export = commands.add_parser("export", help="write the components of a pipeline as MindIR files with a manifest")
    export.add_argument("--size", type=int, default=512, help="of the picture (%(default)s)")
    export.add_argument("--controlnet", help="where MODEL has none: the folder of one")
    _add_target(export)
    export.add_argument("model", metavar="MODEL", help="folder of a pipeline (save_pretrained)")
    export.add_argument("out", metavar="OUT", type=Path, help="folder to write to")
    export.set_defaults(function=_export)

    verify = commands.add_parser(
        "verify", help="every lowering and component against torch on this machine's device; writes a report to send"
    )
    verify.add_argument("--stages", default="operators,components", help="one of them, or both (%(default)s)")
    verify.add_argument("--only", metavar="NAMES", help="parts of names of operators and components, by commas")
    verify.add_argument("--budget", type=float, metavar="MINUTES", help="stop then; what was not tried is named")
    patience = "how long an operator, or a component with its compilation, may take (%(default)g)"
    verify.add_argument("--patience", type=float, default=300.0, metavar="SECONDS", help=patience)
    verify.add_argument("--device", help="cpu, ascend or ascend:NUMBER (default: ascend where there is one)")
    verify.add_argument("--dtypes", help="of the operators (float16,float32 on Ascend, float32 on CPU)")
    verify.add_argument("--size", type=int, help="of the picture (512, or 128 of the demo's model)")
    verify.add_argument("--controlnet", help="where MODEL has none: the folder of one")
    verify.add_argument("--report", type=Path, default=Path("ms-controlnet-verify"), metavar="STEM",
                        help="STEM.json and STEM.txt are written (%(default)s)")  # fmt: skip
    verify.add_argument("model", metavar="MODEL", nargs="?", help="folder of a pipeline (default: the demo's)")
    verify.set_defaults(function=_verify)

    doctor = commands.add_parser("doctor", help="versions, devices, what is missing and what to do")
    doctor.add_argument("--device")
    doctor.set_defaults(function=_doctor)
    return parser


def _add_target(command) -> None:
    """What is compiled for; the device itself need not be there."""
    command.add_argument("--target", default="CPU", help="CPU or Ascend (%(default)s)")
    command.add_argument("--dtype", help="of the pipeline (float16 for Ascend, float32 for CPU)")
    command.add_argument("--npu", help="of Ascend: 910B, 910B4, 910 or 310P; kernels differ (910B)")
    command.add_argument("--without", metavar="NAMES", help="passes and rewrites to leave out, by commas")


def _target(options):
    from .compat import mindspore_runtime
    from .runtime.target import target

    return target(mindspore_runtime.canonical_device(options.target), options.without, options.npu)


def _missing(options) -> bool:
    """Is a folder that the options name not there? Says which."""
    missing = [f for f in (options.model, options.controlnet) if f and not Path(f).is_dir()]
    for folder in missing:
        print(f"ms-controlnet: no folder {folder}", file=sys.stderr)
    return bool(missing)


def _load(options, target):
    """The pipeline that the options name, or None after saying what is not there."""
    from .compat import diffusers_pipelines

    if _missing(options):
        return None
    dtype = options.dtype or {"Ascend": "float16"}.get(target.device, "float32")
    return diffusers_pipelines.load(options.model, options.controlnet, dtype)


def _run(options) -> int:
    from .binding import enable
    from .script import run_script

    if not options.script.is_file():
        print(f"ms-controlnet: no script {options.script}", file=sys.stderr)
        return 2
    if options.verbose:
        logging.basicConfig()
        logging.getLogger(__package__).setLevel(logging.INFO)
    enable(backend=options.backend, device=options.device, strict=options.strict, redirect=options.redirect)
    run_script(options.script, options.arguments)
    return 0


def _compare(options) -> int:
    from .ab import command

    if not options.script.is_file():
        print(f"ms-controlnet: no script {options.script}", file=sys.stderr)
        return 2
    return command.run(options)


def _demo(options) -> int:
    from .demo.run import run

    if options.control and not options.control.is_file():
        print(f"ms-controlnet: no picture {options.control}", file=sys.stderr)
        return 2
    return run(options.output, options.prompt, options.control, options.steps, options.device)


def _coverage(options) -> int:
    import json

    from . import coverage
    from .compat import diffusers_calls

    target = _target(options)
    pipe = _load(options, target)
    if pipe is None:
        return 2
    found = coverage.cover(pipe, target, **diffusers_calls.example(pipe, options.size))
    print("\n".join(coverage.lines(found, target.npu if target.device == "Ascend" else None)))
    if options.json:
        options.json.write_text(json.dumps([c.to_dict() for c in found], indent=1))
    return 1 if any(c.refused for c in found) else 0


def _export(options) -> int:
    from .compat import diffusers_calls
    from .export import MANIFEST, export

    target = _target(options)
    pipe = _load(options, target)
    if pipe is None:
        return 2
    manifest = export(pipe, options.out, target, **diffusers_calls.example(pipe, options.size))
    for component in manifest["components"]:
        taken = ", ".join(f"{i['name']}: {i['dtype']}{i['shape']}" for i in component["inputs"])
        print(f"{component['label']}({taken}): {', '.join(component['files'])}")
    print(f"manifest: {options.out / MANIFEST}")
    return 0


def _verify(options) -> int:
    from .verify import command

    if _missing(options):
        return 2
    return command.run(options)


def _doctor(options) -> int:
    from .doctor import report

    lines, problems = report(options.device)
    print("\n".join(lines))
    for problem in problems:
        print(f"problem       {problem}")
    print("all is well" if not problems else f"{len(problems)} problem(s)")
    return 1 if problems else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code. Errors of this package are one line, others keep their traceback."""
    options = _parser().parse_args(arguments)
    try:
        return options.function(options)
    except BackendError as error:
        print(f"ms-controlnet: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
