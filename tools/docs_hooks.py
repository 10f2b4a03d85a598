"""What MkDocs does to a page before it is rendered: links to files of the repository become their names."""

from __future__ import annotations

import re
from typing import Any

_OUT_OF_DOCS = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)+((?:virtual_stain|tfrecords|configs|tools|tests|examples|Dockerfile|Makefile|README|SECURITY|CONTRIBUTING|CHANGELOG|setup|constraints)[^)]*)\)"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The site holds `docs/` alone, so a link to the code would lead nowhere."""
    return _OUT_OF_DOCS.sub(lambda found: f"{found[1]} (`{found[2]}`)", markdown)
