"""[web]: the pages for people, `vstain review` and `vstain serve`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from virtual_stain.config.check import Range, check_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Loopback unless told otherwise; a token for anything else."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but a loopback address needs a token (VSTAIN_WEB_TOKEN)."""
    port: Annotated[int, Range(0, 65_535)] = 8899
    """TCP port; 0: any free one."""
    root_path: str = ""
    """Path below which a reverse proxy offers the pages, /vstain; empty: none, or the proxy takes it off."""
    root: str = ""
    """Folder of slides that `vstain serve` may read; nothing outside it is ever served."""
    models: tuple[str, ...] = ()
    """Models to choose from: bundle folders or addresses of servers, each with its own name as NAME=MODEL if wanted."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which browsers may call the server, beside the address itself."""
    show_patient_ids: bool = False
    """Show the keyed hash of the patient of a pair in the review; names are never there to show."""
    show_paths: bool = False
    """Leave the root's own folder in downloaded reports; off: slides by their paths below it."""
    uploads: bool = False
    """Take slides from browsers into ROOT/uploads."""
    upload_max_mb: Annotated[float, Range(0.001, 1_000_000)] = 4000.0
    """Largest upload, MB (1e6 bytes)."""
    max_queued_slides: Annotated[int, Range(1, 1_000_000)] = 2000
    """Slides that may wait for scoring at one time; more are refused."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.host:
            raise ValueError("host: expected an address. Received: ''")
        if self.root_path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", self.root_path):
            raise ValueError(
                f"root_path: expected a path like /vstain, without a slash at its end. Received: {self.root_path!r}"
            )
