"""A folder whose tiles wait for a person's verdict has no manifest yet, and that is no reason to build it again."""

from __future__ import annotations

from virtual_stain.errors import ReviewPendingError
from virtual_stain.records.manifest import MANIFEST
from virtual_stain.remote import Location
from virtual_stain.review.verdicts import TEMPLATE


def require_reviewed(folder: Location) -> None:
    """Raises ReviewPendingError where tiles have been built, and nobody's verdicts have made records of them."""
    if (folder / TEMPLATE).is_file() and not (folder / MANIFEST).is_file():
        raise ReviewPendingError(
            f"{folder}: expected records. Received: tiles that nobody has reviewed yet ({TEMPLATE}).",
            hint=f"Review them: vstain review {folder}, then run vstain build-records once more.",
        )
