"""[scoring]: how a slide's reading is made from its tiles. Geometry and thresholds are the bundle's, never set here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtual_stain.config.check import Range, check_ranges, require_one_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings:
    """Sort from large to small, mean of the top N; and the mean of all."""

    top_n: Annotated[int, Range(1, 100_000)] = 30
    """Tiles in the source's top mean."""
    crops: str = "quadrants"
    """"quadrants": a tile's reading is the mean over all its crops; "center": the central crop alone, noisier and (with
    the default geometry) in a quarter of the time."""
    engine: str = "tensorflow"
    """"tensorflow" or "openvino" (extra): what runs the network of a bundle folder."""
    precision: str = "auto"
    """"float32" is the reference; "bfloat16" is tried and checked on tiles of each slide; "auto": bfloat16 where the
    processor or GPU multiplies it in hardware."""
    check_tiles: Annotated[int, Range(1, 1000)] = 8
    """Tiles of each slide on whose central crops a bfloat16 engine is compared with the reference before it may read
    the slide."""
    batch_size: Annotated[int, Range(0, 4096)] = 0
    """Tiles per call of the network; 0: what suits the engine and device (CPU 1, GPU 16, server 4)."""
    transport: str = "lossless"
    """How tiles travel to a model server: "lossless" (pixels over gRPC, PNG over REST) or "jpeg" (95, 4:4:4: a tenth of
    the bytes, readings within 0.01)."""
    server_requests: Annotated[int, Range(1, 256)] = 4
    """Requests to a model server at a time; times batch_size they should fill the server's max_batch_size."""
    server_timeout_s: Annotated[float, Range(0.1, 3600)] = 60.0
    """Deadline of one request."""
    server_patience_s: Annotated[float, Range(0, 86_400)] = 300.0
    """So long a server that has answered before may be away before the run ends."""
    read_ahead_batches: Annotated[int, Range(1, 64)] = 2
    """Batches of tiles that may wait for the network in memory; a 1024-px tile is 3 MB."""
    read_timeout_s: Annotated[float, Range(0.1, 86_400)] = 300.0
    """Without a single tile for so long the slide counts as unreadable (a stalled network share)."""
    max_failed_fraction: Annotated[float, Range(0, 1)] = 0.2
    """A slide of which a larger share of the tissue tiles cannot be read is refused."""
    low_tissue_mm2: Annotated[float, Range(0, 10_000)] = 1.0
    """Less tissue than this on a slide is flagged low_tissue."""
    few_cells: Annotated[int, Range(0, 1_000_000)] = 500
    """Fewer expected tumour cells on a slide are flagged (IKWG: count at least 500)."""
    require_signature: bool = False
    """Refuse a model without --trusted-key: one whose maker nobody vouches for."""
    any_stain: bool = False
    """Also score slides that do not look like H&E (--force-unsuitable); their readings are flagged."""
    gallery_tiles: Annotated[int, Range(0, 200)] = 30
    """Tiles with the highest readings shown in the HTML report."""

    def __post_init__(self) -> None:
        check_ranges(self)
        require_one_of("crops", self.crops, ("quadrants", "center"))
        require_one_of("engine", self.engine, ("tensorflow", "openvino"))
        require_one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        require_one_of("transport", self.transport, ("lossless", "jpeg"))
