"""The wheel, the editable install, the import, and the direction of imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from ms_controlnet_backend.compat import versions

import ms_controlnet_backend

tomllib = pytest.importorskip("tomllib")
ROOT = Path(__file__).parent.parent
FOLDERS = {"ms_controlnet_backend": ROOT / "ms_controlnet_backend", "ms_controlnet_backend.adapters": ROOT / "adapters",
           "ms_controlnet_backend.compat": ROOT / "compat"}  # fmt: skip


def python(code, *, cwd, **environment):
    import os

    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light_and_silent(tmp_path):
    code = (
        "import sys, ms_controlnet_backend as b; dir(b)\n"
        "print([m for m in ('mindspore', 'torch', 'diffusers', 'transformers', 'numpy', 'pluggy') if m in sys.modules])"
    )
    assert python(code, cwd=tmp_path) == "[]\n"


def test_every_export_exists():
    for name in ms_controlnet_backend.__all__:
        assert getattr(ms_controlnet_backend, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ms_controlnet_backend.nothing  # noqa: B018


def test_the_wheel_imports(tmp_path):
    """What `pip install .` puts into site-packages, on its own and away from the checkout."""
    pip = [sys.executable, "-m", "pip"]
    source = tmp_path / "source"
    import shutil

    ignore = shutil.ignore_patterns(".git", "*.egg-info", "build", "__pycache__", ".venv*")
    shutil.copytree(ROOT, source, ignore=ignore)
    subprocess.run(
        [*pip, "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-index", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import ms_controlnet_backend as b, ms_controlnet_backend.adapters as a, ms_controlnet_backend.compat as c\n"
        "from ms_controlnet_backend.demo import run; from importlib import resources\n"
        "files = resources.files('ms_controlnet_backend.demo')\n"
        "assert files.joinpath('checkpoint', 'controlnet_masks', 'config.json').is_file()\n"
        "assert files.joinpath('scripts', 'inpaint.py').is_file()\n"
        "report = resources.files('ms_controlnet_backend.ab').joinpath('templates', 'report.html.j2')\n"
        "assert report.is_file() and callable(b.compare)\n"
        "print(b.__file__); print(a.__file__); print(c.__file__)"
    )
    paths = python(code, cwd=tmp_path).split()
    assert all(str(tmp_path / "site") in p for p in paths)
    assert {p.name for p in (tmp_path / "site").iterdir() if p.suffix != ".dist-info"} - {"bin"} == {
        "ms_controlnet_backend"
    }


def test_all_packages_are_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = set()
    for name, folder in FOLDERS.items():
        found |= {".".join([name, *p.parent.relative_to(folder).parts]) for p in folder.rglob("__init__.py")}
    assert listed == found


def test_ranges_agree():
    """pyproject.toml, compat/versions.py."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = {d.split(">")[0].split("<")[0]: d for d in project["project"]["dependencies"]}
    for name, known in versions.RANGES.items():
        newest = tuple(map(int, known.tested.split(".")))
        cap = f",<{newest[0]}.{newest[1] + 1}" if name == "mindspore" else ""
        assert declared[name] == known.requirement(name) + cap
    assert project["project"]["version"] == ms_controlnet_backend.__version__


LAYERS = ["compat layout interruptions gate", "capture passes signature settings intercept routes reach state foreign",
          "lowering codegen", "runtime", "adapters backends",
          "binding", "cli coverage demo doctor export script verify ab"]  # fmt: skip
FREE = {"errors", "hookspecs", "plugins"}  # the contract: everybody may import it
LEVEL = {name: i for i, layer in enumerate(LAYERS) for name in layer.split()}


def imports(path: Path, module: str):
    """Modules of this package that a file imports, as the name right below the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = module.split(".")[: -node.level] if path.name != "__init__.py" else (
                module.split(".")[: len(module.split(".")) - node.level + 1])  # fmt: skip
            target = ".".join([*package, *([node.module] if node.module else [])])
            names = [f"{target}.{a.name}" for a in node.names] if target == "ms_controlnet_backend" else [target]
            for name in names:
                parts = name.split(".")
                if len(parts) > 1:
                    yield parts[1]


def test_imports_point_one_way():
    checked = 0
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            module = ".".join(p for p in parts if p != "__init__")
            own = module.split(".")[1] if "." in module else None
            if own is None or own in FREE:
                continue
            for other in imports(path, module):
                if other not in FREE and other != own and not other.startswith("__"):
                    assert LEVEL[other] <= LEVEL[own], f"{module} imports {other}"
                    checked += 1
    assert checked > 20


def test_only_adapters_and_compat_know_upstream():
    """The core names no diffusers or transformers module."""
    for path in (ROOT / "ms_controlnet_backend").rglob("*.py"):
        if "demo" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [n for n in names if n.split(".")[0] in ("diffusers", "transformers", "mindspore")], path
