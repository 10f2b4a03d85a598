"""Slides: opening, pixel size, windows, tissue. The package's public names stand in its modules."""
