"""What decided about tumour cells, in words: summary.json has a code for it."""

from __future__ import annotations

from virtual_stain.counting.tumour import IMPORTED, MODEL, NUCLEAR_FEATURES, REGION

_WORDS = {
    NUCLEAR_FEATURES: "tumour cells chosen by size and shape of the nuclei and their neighbours; no region was drawn",
    REGION: "tumour cells are the cells inside the region that was drawn",
    IMPORTED: "tumour cells as the imported cells say",
}


def source_words(tumour_source: str) -> str:
    """For people: `tumour cells are the cells inside the region that was drawn`."""
    if tumour_source.startswith(MODEL):
        return f"tumour cells are the cells inside the region of the model {tumour_source.removeprefix(MODEL)}"
    return _WORDS.get(tumour_source, f"tumour cells by {tumour_source.replace('_', ' ')}")
