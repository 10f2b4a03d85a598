"""The code that a module depends on inside this package, and a hash of it. Only `reuse` asks; lint-imports says so.

A module's *closure* is the module, everything of this package that it imports, directly or not, and the templates and
data files that these modules name. It is read from the syntax trees, imports inside functions included. So nobody
keeps a list by hand. Comments, docstrings and layout are left out of the hash: a comma in a comment does not make a
cohort be computed again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "virtual_stain"

NEUTRAL = {
    "errors": "what is said where nothing is computed",
    "progress": "what is said while something is computed",
    "parallel": "where it is computed",
    "memory": "how much is computed at once",
    "files": "how files come to lie on the disk whole; their content has a hash of its own",
    "hdf5": "how HDF5 files come to lie on the disk whole",
    "config.check": "refuses settings; those that pass stand in the fingerprint",
    "config.load": "reads settings; their values stand in the fingerprint",
    "schema_check": "refuses files; what passes is used as it stands",
    "provenance": "what run.json tells",
    "reuse": "decides what is computed again",
    "source_code": "decides what is computed again",
    "version": "a number for people: releases of equal code compute equal results",
}
"""Modules that no result depends on, and why. A module that is not named here counts, so a new one is not forgotten."""

_DATA_FOLDERS = ("templates", "rules", "schemas")
_DATA_NAME = re.compile(r"""["']([\w./-]+\.(?:html|css|js|json|toml)|templates|rules|schemas)["']""")


@dataclass(frozen=True, slots=True)
class _Source:
    """One module as a file: what is taken from it, and what it holds."""

    path: Path
    imports: tuple[tuple[str, str | None], ...]
    """(module, name in it) of `from module import name`; (module, None) of `import module`; this package's only."""
    passed_on: dict[str, tuple[str, str]]
    """name → (module, name there): names that it imports at its top level."""
    syntax_sha256: str


class SourceTree:
    """The modules below one folder. Nothing is imported; files are read, each once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sources: dict[str, _Source] = {}
        self._hashes: dict[str, str] = {}  # asked for at every slide of a folder

    def closure(self, module: str) -> frozenset[str]:
        """Modules (dotted, relative to the package) that `module` depends on, itself included, neutral ones not.

        Raises KeyError where there is no such module.
        """
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            name = waiting.pop()
            if name not in seen and name not in NEUTRAL:
                seen.add(name)
                for imported, member in self._source(name).imports:
                    waiting.append(self._home(imported, member))
        return frozenset(seen)

    def data_files(self, module: str) -> frozenset[Path]:
        """Templates and other data files that `module` names, and those that these templates include."""
        path = self._source(module).path
        homes = (path.parent, self._root)
        found: set[Path] = set()
        waiting = [path]
        while waiting:
            text = waiting.pop().read_text(encoding="utf-8")
            for name in set(_DATA_NAME.findall(text)):
                new = _files_named(name, homes) - found
                found |= new
                waiting.extend(file for file in new if file.suffix == ".html")
        return frozenset(found)

    def sha256(self, module: str) -> str:
        """Hash (hex) of the closure of `module`: names, syntax without docstrings, bytes of data files."""
        if module not in self._hashes:
            self._hashes[module] = self._compute(module)
        return self._hashes[module]

    def _compute(self, module: str) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.closure(module)):
            digest.update(f"{name}\0{self._source(name).syntax_sha256}\0".encode())
            for path in sorted(self.data_files(name)):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{path.relative_to(self._root).as_posix()}\0{content}\0".encode())
        return digest.hexdigest()

    def _source(self, name: str) -> _Source:
        if name not in self._sources:
            path = self._path(name)
            if path is None:
                raise KeyError(f"{PACKAGE}.{name}: no such module below {self._root}")
            self._sources[name] = _read(name, path)
        return self._sources[name]

    def _path(self, name: str) -> Path | None:
        base = self._root.joinpath(*name.split(".")) if name else self._root
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return path
        return None

    def _home(self, module: str, name: str | None) -> str:
        """The module that `from module import name` gets its name from, through packages that only pass it on."""
        if name is None:
            return module
        below = f"{module}.{name}" if module else name
        if self._path(below) is not None:
            return below
        source = self._source(module)
        if source.path.name == "__init__.py" and name in source.passed_on:
            return self._home(*source.passed_on[name])
        return module


@functools.cache
def source_tree() -> SourceTree:
    """This package's own sources as they are when first asked: the code that this process runs."""
    return SourceTree(Path(__file__).parent)


def _read(name: str, path: Path) -> _Source:
    tree = ast.parse(path.read_bytes(), str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imports = [(node, i) for node in _imports_of(tree) for i in _targets(node, package)]
    top = {id(node) for node in tree.body}
    passed_on = {shown: (module, member) for node, (module, member, shown) in imports if id(node) in top and member}
    _drop_texts(tree)
    return _Source(
        path=path,
        imports=tuple((module, member) for _, (module, member, _) in imports),
        passed_on=passed_on,
        syntax_sha256=hashlib.sha256(ast.dump(tree).encode()).hexdigest(),
    )


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements right inside a statement (or the module)."""
    for field in ("body", "orelse", "finalbody"):
        body = getattr(node, field, None)
        if isinstance(body, list):
            yield body
    for inner in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield inner.body


def _imports_of(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports that can run: not those that stand there for the type checker alone."""
    for body in _bodies(node):
        if isinstance(node, ast.If) and body is node.body and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        for statement in body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                yield statement
            else:
                yield from _imports_of(statement)


def _targets(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str | None, str]]:
    """(module, member or None, name that it gets) of one import of this package's."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if (module := _inside(alias.name)) is not None:
                yield module, None, alias.asname or alias.name
        return
    if node.level:
        parts = package.split(".")[: len(package.split(".")) - (node.level - 1)] if package else []
        module = ".".join([*parts, *((node.module or "").split(".") if node.module else [])])
    else:
        inside = _inside(node.module or "")
        if inside is None:
            return
        module = inside
    for alias in node.names:
        yield module, alias.name, alias.asname or alias.name


def _inside(dotted: str) -> str | None:
    """A module's name relative to this package; None for another package's."""
    if dotted == PACKAGE:
        return ""
    return dotted.removeprefix(f"{PACKAGE}.") if dotted.startswith(f"{PACKAGE}.") else None


def _drop_texts(node: ast.AST) -> None:
    """Removes strings that stand for themselves: docstrings, and the texts below fields."""
    for body in _bodies(node):
        body[:] = [s for s in body if not (isinstance(s, ast.Expr) and _is_text(s.value))]
        for statement in body:
            _drop_texts(statement)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _files_named(name: str, homes: tuple[Path, ...]) -> set[Path]:
    """Data files of this name beside a module, in its data folders, and in the package's; or a whole data folder."""
    if name in _DATA_FOLDERS:
        return {p for p in (homes[0] / name).glob("*") if p.is_file()}
    places = [home / folder / name for home in homes for folder in ("", *_DATA_FOLDERS)]
    return {place for place in places if place.is_file()}
