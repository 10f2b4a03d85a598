"""Writes the pages of docs/reference/ that come from the program: its settings, and every option of every command.

python tools/write_reference.py            # writes them
python tools/write_reference.py --check    # exit code 1 where one is out of date
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import enum
import itertools
import sys
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from virtual_stain.cli.main import main as vstain
from virtual_stain.config import Config
from virtual_stain.config.check import Range

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
_WIDTH = 100
_HEAD = """# Configuration

Settings stand in a TOML file (`--config FILE`), one section a stage, or after `--set section.key=value`.
What is left out has its default. An unknown name, a wrong type or a value out of range is refused, all of them at once.

This page is written by `tools/write_reference.py`.
"""


def field_texts(section: type) -> dict[str, str]:
    """Field → the text that stands below it in the source."""
    module = import_module(section.__module__)
    assert module.__file__
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == section.__name__)
    texts = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            texts[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return texts


def shown(value: Any) -> str:
    """A default as TOML would have it."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def allowed(hint: Any) -> str:
    """The range beside a field, or its words."""
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, Range):
            return f"{note.low:g} … {note.high:g}"
    plain = typing.get_args(hint)[0] if getattr(hint, "__metadata__", None) else hint
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in plain)
    return ""


def section_text(name: str, section: type) -> str:
    """One section as a table."""
    hints, texts = typing.get_type_hints(section, include_extras=True), field_texts(section)
    default = section()
    rows = [
        f"| `{f.name}` | {shown(getattr(default, f.name))} | {allowed(hints[f.name])} | "
        f"{texts.get(f.name, '').replace('|', '/')} |"
        for f in dataclasses.fields(section)
    ]
    about = (section.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    return "\n".join([f"## [{name}]", "", about, "", "| key | default | allowed | |", "|---|---|---|---|", *rows])


def configuration() -> str:
    """The page of all settings."""
    hints = typing.get_type_hints(Config)
    sections = (section_text(f.name, hints[f.name]) for f in dataclasses.fields(Config))
    return "\n\n".join([_HEAD.rstrip(), *sections]) + "\n"


def help_texts(command: click.Command, context: click.Context, depth: int = 2) -> Iterator[str]:
    """A command's help as the terminal shows it, then those of the commands below it."""
    yield f"{'#' * depth} {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                inner = click.Context(below, info_name=name, parent=context, terminal_width=_WIDTH)
                yield from help_texts(below, inner, depth=3 if depth > 2 else 2)


def options() -> str:
    """The page of all options."""
    head = "# Every option\n\nWhat `--help` says. This page is written by `tools/write_reference.py`."
    context = click.Context(vstain, info_name="vstain", terminal_width=_WIDTH)
    return "\n\n".join([head, *help_texts(vstain, context)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    pages = {REFERENCE / "configuration.md": configuration(), REFERENCE / "command-line.md": options()}
    if check:
        return int(any(not p.is_file() or p.read_text(encoding="utf-8") != text for p, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
