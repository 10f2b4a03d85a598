"""The configurations that come with the program, as files of the package; configs/ of the source tree links to them."""

from __future__ import annotations

from pathlib import Path

_SHIPPED = Path(__file__).parent / "shipped"


def shipped_configs() -> dict[str, Path]:
    """Name without ending → file, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.toml"))}


def purpose_of(path: Path) -> str:
    """The first sentence of the comment at its head, after the command."""
    lines = [line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").split("\n[")[0].splitlines()]
    text = " ".join(lines[1:]).strip()
    return text.split(": ")[0].split(". ")[0]
