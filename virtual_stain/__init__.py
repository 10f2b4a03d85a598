"""Reads an immunohistochemistry value of a tissue from its H&E whole-slide image. Research use only."""

from virtual_stain.version import __version__

__all__ = ["__version__"]
