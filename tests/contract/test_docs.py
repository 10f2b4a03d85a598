"""What the documents say a user can type, a user can type; where they point to, something is."""

import re
import shlex
from pathlib import Path

import click
import pytest

from virtual_stain.cli import main as cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "tfrecords" / "README.md"]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))


def _commands(path: Path) -> list[str]:
    """`vstain …` lines of code blocks (and the first line of configurations), without comments."""
    text = path.read_text()
    if path.suffix == ".toml":
        return [text.splitlines()[0].removeprefix("# ")]
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip().startswith("vstain ")]


CASES = [(p.relative_to(ROOT), c) for p in [*PAGES, *CONFIGS] for c in _commands(p)]


def _command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The click command that the words name, and what is left of them."""
    command: click.Command | None = cli.main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command = command.get_command(click.Context(command), words[0])
        assert command is not None, words[0]
        words = words[1:]
    assert command is not None
    return command, words


def test_there_are_commands_to_check():
    assert len(CASES) > 10


@pytest.mark.parametrize(("page", "line"), CASES, ids=[f"{p}: {c[:50]}" for p, c in CASES])
def test_every_documented_command_has_the_options_that_it_shows(page, line):
    command, words = _command(shlex.split(line.split(" | ")[0].split(" && ")[0])[1:])
    known = {name for p in command.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
    known |= {"--help", "-h", "--version"}
    shown = {w.split("=")[0] for w in words if w.startswith("-") and not w.lstrip("-").isdigit()}
    assert shown <= known
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
