"""Several markers of one lesion on one page, with the classes that published rule sets give them."""
