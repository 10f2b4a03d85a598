"""What keeps the code small and honest, checked by machine."""

import ast
import configparser
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from virtual_stain.config import Config

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "virtual_stain").rglob("*.py"))
TENSORFLOW_MAY = {"dataset", "model", "training", "evaluation"}
TENSORFLOW_MAY_FILES = {
    "exporting/saved_model.py",
    "exporting/inference_graph.py",
    "exporting/weights_apart.py",
    "scoring/allowed_operations.py",
    "scoring/local.py",
    "scoring/bfloat16.py",
    "scoring/openvino_engine.py",
    "scoring/signature.py",
    "scoring/start_tensorflow.py",
    "api/crops.py",
    "api/records.py",  # names its type alone
    "api/train.py",  # names its type alone
    "remote.py",
    "records/ihc_shards.py",
    "records/read.py",
    "records/write.py",
}

_WORKER = """
import sys
import virtual_stain.registration.register, virtual_stain.counting.count, virtual_stain.labels.store
import virtual_stain.slides.window, virtual_stain.phantom, virtual_stain.workflows.build_records
heavy = [m for m in ("tensorflow", "keras") if m in sys.modules]
assert not heavy, heavy
"""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT / "virtual_stain"))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            # a public docstring documents every parameter, with an example: it is no code
            documented = len((ast.get_docstring(node) or "").splitlines()) if path.parent.name == "api" else 0
            assert node.end_lineno - node.lineno - documented < 80, node.name


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name == "cli"], ids=_name)
def test_a_command_is_a_light_module(path):
    allowed = 120 if path.name in ("main.py", "common.py") else 80
    assert path.read_text().count("\n") <= allowed


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_tensorflow_is_imported_in_a_closed_list_of_modules(path):
    name = _name(path)
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    if imported & {"tensorflow", "keras"}:
        assert name.split("/")[0] in TENSORFLOW_MAY or name in TENSORFLOW_MAY_FILES


def test_workers_never_load_tensorflow():
    done = subprocess.run([sys.executable, "-c", _WORKER], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


_ELSEWHERE = """
import importlib, pkgutil, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tensorflow_io"):
    sys.modules[name] = None
import virtual_stain
names = ["virtual_stain.cli.main", "virtual_stain.files", "virtual_stain.exporting.bundle"]
for part in ("slides", "scoring", "report"):
    package = importlib.import_module(f"virtual_stain.{part}")
    names += [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_reading_and_scoring_import_where_the_system_is_none_of_posix():
    """Windows has neither these modules nor a wheel of tensorflow-io; `fcntl` alone kept every module from loading."""
    done = subprocess.run([sys.executable, "-c", _ELSEWHERE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_label_and_macro_images_are_never_read():
    """They carry names: OpenSlide hands them out as `associated_images`, and nothing here may ask for them."""
    asking = [_name(path) for path in MODULES if re.search(r"associated_images|get_thumbnail", path.read_text())]
    assert asking == []


def test_every_file_of_the_package_is_installed():
    """A template that only lies in the checkout is missing where the program was installed: `vstain panel` had one."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    data = {name: patterns.split() for name, patterns in setup["options.package_data"].items()}
    packages = {path.parent for path in MODULES if path.name == "__init__.py"}
    left_out = []
    for path in (ROOT / "virtual_stain").rglob("*"):
        if not path.is_file() or path.suffix in (".py", ".pyc"):
            continue
        package = next(folder for folder in path.parents if folder in packages)
        patterns = data.get(".".join(package.relative_to(ROOT).parts), [])
        if not any(path in package.glob(pattern) for pattern in patterns):
            left_out.append(str(path.relative_to(ROOT)))
    assert left_out == []


def test_every_dependency_has_its_line_in_the_docs():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    wanted = parser["options"]["install_requires"].split("\n")
    for extra in parser["options.extras_require"].values():
        wanted += extra.split("\n")
    docs = (ROOT / "docs" / "dependencies.md").read_text()
    names = {re.split(r"[<>=\[;]", line)[0].strip() for line in wanted if line.strip()}
    assert [n for n in sorted(names) if n not in docs] == []


def test_every_config_field_is_documented_with_its_unit_or_meaning():
    missing = []
    for section in dataclasses.fields(Config):
        cls = type(getattr(Config(), section.name))
        tree = ast.parse(Path(sys.modules[cls.__module__].__file__).read_text())
        body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
        for node, following in zip(body, [*body[1:], None], strict=True):
            documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if isinstance(node, ast.AnnAssign) and not documented:
                missing.append(f"{section.name}.{node.target.id}")
    assert missing == []
