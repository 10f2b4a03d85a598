"""The demo: every stage on phantoms, compared with the truth."""
