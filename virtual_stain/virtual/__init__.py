"""The indirect path's picture and its readings: virtual IHC drawn on the nuclei of the H&E, read by the same counter.

A room of its own: it joins scoring and counting, which do not know each other, and only workflows enter it.
"""
