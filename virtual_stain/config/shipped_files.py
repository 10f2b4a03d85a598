"""The configurations that come with the program, as files of the package; configs/ of the source tree links to them."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_SHIPPED = (_PACKAGE / "config" / "shipped", _PACKAGE / "workflows" / "demo")


def shipped_configs() -> dict[str, Path]:
    """Name without ending → file, by name."""
    files = [path for folder in _SHIPPED for path in folder.glob("*.toml")]
    return {path.stem: path for path in sorted(files)}


def named_config(path: Path) -> Path:
    """A bare name (`few_slides`) that is no file here but one of the shipped: that one. Else `path` itself."""
    if path.name != str(path) or path.suffix or path.is_file():
        return path
    return shipped_configs().get(path.name, path)


def purpose_of(path: Path) -> str:
    """The first sentence of the comment at its head, after the command."""
    lines = [line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").split("\n[")[0].splitlines()]
    text = " ".join(lines[1:]).strip()
    return text.split(": ")[0].split(". ")[0]
