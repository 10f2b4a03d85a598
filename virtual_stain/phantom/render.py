"""Renders one slide block by block: any block alone gives the same pixels as the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points, Size
from virtual_stain.phantom.atlas import Atlas, atlas_pixels
from virtual_stain.phantom.background import cell_borders, ground, he_layers, ihc_layers
from virtual_stain.phantom.cells import Kind
from virtual_stain.phantom.membranes import draw_membranes
from virtual_stain.phantom.noise import Image, rng_for, wrapped
from virtual_stain.phantom.sprites import sprite_bank
from virtual_stain.phantom.stains import SlideOptics
from virtual_stain.phantom.stamp import PlacedNuclei, stamp

Rgb = npt.NDArray[np.uint8]

_NODE_PX = 16
_BLOCK_PX = 1024
_BAND_PX = 48
_MARGIN_UM = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A piece of tissue on a slide."""

    atlas: Atlas
    placed: PlacedNuclei
    world_from_px0: Callable[[Points], Points]
    """float64[N, 2] level-0 px of the slide → µm of the atlas."""
    thickness: Image
    """float32[h, w, 2] on the atlas grid: factors on the first stain and on the others, mean 1."""


@dataclass(frozen=True, slots=True, eq=False)
class SlideScene:
    """What is on one slide."""

    size: Size
    mpp: float
    ihc: bool
    pieces: tuple[Piece, ...]
    optics: SlideOptics
    seed: int
    on_layers: tuple[Callable[[Image, int, int], Image], ...] = ()
    """Artefacts in the tissue: (float32[h, w, 3] amounts, x0, y0 in px0) → amounts."""
    on_rgb: tuple[Callable[[Image, int, int], Image], ...] = ()
    """Artefacts of glass and optics: (float32[h, w, 3] RGB 0–255, x0, y0) → RGB."""
    _noise: list[Image] = field(default_factory=list)

    def strips(self, rows: int) -> Iterator[Rgb]:
        """The slide from top to bottom as uint8[≤ rows, width, 3] RGB."""
        for y in range(0, self.size.height, rows):
            height = min(rows, self.size.height - y)
            strip = np.empty((height, self.size.width, 3), np.uint8)
            for x in range(0, self.size.width, _BLOCK_PX):
                width = min(_BLOCK_PX, self.size.width - x)
                strip[:, x : x + width] = self.block(x, y, width, height)
            yield strip

    def block(self, x: int, y: int, width: int, height: int) -> Rgb:
        """uint8[height, width, 3] RGB of the window that starts at (x, y) px0."""
        margin = int(np.ceil(_MARGIN_UM / self.mpp / _NODE_PX)) * _NODE_PX
        x0, y0, w, h = x - margin, y - margin, width + 2 * margin, height + 2 * margin
        layers = np.zeros((h, w, 3), np.float32)
        empty = True
        for piece in self.pieces:
            part = self._tissue(piece, x0, y0, w, h)
            if part is not None:
                layers, empty = (part if empty else layers + part), False
        if empty:
            rgb = np.empty((h, w, 3), np.float32)
            rgb[:] = self.optics.background
        else:
            for change in self.on_layers:
                layers = change(layers, x0, y0)
            rgb = self.optics.expose(layers, self.mpp)
        for change in self.on_rgb:
            rgb = change(rgb, x0, y0)
        rgb = rgb[margin : margin + height, margin : margin + width]
        if not self._noise:
            rng = rng_for(self.seed, "camera", int(self.ihc))
            noise = rng.standard_normal((1024, 1024, 3), np.float32)
            self._noise.append(noise * np.float32(self.optics.noise) + np.float32(0.5))
        noisy = wrapped(self._noise[0], x, y, width, height)
        noisy += rgb
        return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)

    def _tissue(self, piece: Piece, x0: int, y0: int, w: int, h: int) -> Image | None:
        nodes = _nodes(piece.world_from_px0, x0, y0, w, h)
        coarse = atlas_pixels(piece.atlas.tissue, nodes)
        if float(coarse.max()) < -3 * _NODE_PX * self.mpp - 6:
            return None
        world = _enlarged(nodes, w, h)
        inside = piece.placed.within(x0, y0, x0 + w, y0 + h)
        tumour = inside.nuclei.kind == Kind.TUMOUR
        tint = ((inside.nuclei.shape[tumour].astype(np.float32) * 7 % 24) / 24 - 0.5) * np.float32(0.12)
        borders = cell_borders(inside.px0[tumour] - (x0, y0), tint, (h, w), self.mpp)
        layers = np.empty((h, w, 3), np.float32)
        mix = ihc_layers if self.ihc else he_layers
        for top in range(0, h, _BAND_PX):  # thin bands: their intermediate images stay in the processor's cache
            band = slice(top, min(top + _BAND_PX, h))
            g = ground(piece.atlas, world[band], (x0, y0 + top), self.mpp)
            layers[band] = mix(g, None if borders is None else borders[band])
        if self.ihc and (inside.nuclei.membrane_fraction > 0).any():
            draw_membranes(layers[..., 2], inside, (x0, y0))
        stamp(layers, inside, sprite_bank(self.mpp), (x0, y0), ihc=self.ihc)
        factors = _enlarged(atlas_pixels(piece.thickness, nodes), w, h)
        layers[..., 0] *= factors[..., 0]
        layers[..., 1:] *= factors[..., 1:]
        return layers


def _nodes(world_from_px0: Callable[[Points], Points], x0: int, y0: int, w: int, h: int) -> npt.NDArray[np.float32]:
    """float32[rows, columns, 2]: world points at every _NODE_PX, one node beyond each border."""
    xs = x0 + (np.arange(-1, -(-w // _NODE_PX) + 1) + 0.5) * _NODE_PX
    ys = y0 + (np.arange(-1, -(-h // _NODE_PX) + 1) + 0.5) * _NODE_PX
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    return world_from_px0(grid.reshape(-1, 2)).reshape(grid.shape).astype(np.float32)


def _enlarged(nodes: Image, w: int, h: int) -> Image:
    """Nodes → pixels, linear between them."""
    size = (nodes.shape[1] * _NODE_PX, nodes.shape[0] * _NODE_PX)
    full = np.asarray(cv2.resize(nodes, size, interpolation=cv2.INTER_LINEAR), np.float32)
    return full[_NODE_PX : _NODE_PX + h, _NODE_PX : _NODE_PX + w]
