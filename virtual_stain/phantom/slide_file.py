"""The three kinds of slide file a phantom can be: generic TIFF, Aperio-like SVS, Hamamatsu-like NDPI."""

from __future__ import annotations

from pathlib import Path

from virtual_stain.phantom.ndpi import write_ndpi
from virtual_stain.phantom.pyramid import StripSource, write_tiled

SUFFIXES = {"tiff": ".tiff", "svs": ".svs", "ndpi": ".ndpi"}


def write_slide(path: Path, source: StripSource, kind: str, quality: int) -> None:
    """Writes `source` to `path` atomically; `kind` is tiff, svs or ndpi. Raises OutputError."""
    if kind == "ndpi":
        write_ndpi(path, source, quality)
    elif kind == "svs":
        write_tiled(path, source, quality, _aperio_text(source, quality), reduced_flag=False)
    else:
        write_tiled(path, source, quality, "virtual-stain phantom", reduced_flag=True)


def _aperio_text(source: StripSource, quality: int) -> str:
    width, height = source.size.width, source.size.height
    return (
        f"Aperio Image Library v11.2.1 \r\n{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q={quality}"
        f"|AppMag = {10 / source.mpp:.0f}|MPP = {source.mpp:.6f}|ImageID = 0"
    )
