"""One pair of slides from one seed: tissue, sections, pose, scenes, truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.geometry import Affine2D, Points
from virtual_stain.phantom.atlas import Atlas, build_atlas, neighbouring_section
from virtual_stain.phantom.cells import Nuclei
from virtual_stain.phantom.noise import Image, rng_for, smooth_field
from virtual_stain.phantom.populate import populate
from virtual_stain.phantom.pose import Pose, canvas_um, landmarks, make_pose
from virtual_stain.phantom.render import Piece, SlideScene
from virtual_stain.phantom.stains import slide_optics
from virtual_stain.phantom.stamp import PlacedNuclei
from virtual_stain.phantom.tile_table import make_table
from virtual_stain.phantom.truth import PairTruth, summarize
from virtual_stain.registration.transform import PairTransform


@dataclass(frozen=True, slots=True, eq=False)
class PhantomPair:
    """Two slides that can be rendered, and what is known about them."""

    he: SlideScene
    ihc: SlideScene
    truth: PairTruth
    extra: dict[str, Any]
    """What truth.json says beyond the truth: settings, optics."""


@dataclass(frozen=True, slots=True)
class _WorldFromHe:
    mpp: float

    def __call__(self, px0: Points) -> Points:
        return px0 * self.mpp


@dataclass(frozen=True, slots=True)
class _WorldFromIhc:
    transform: PairTransform
    mpp: float

    def __call__(self, px0: Points) -> Points:
        return self.transform.to_he(px0) * self.mpp


def make_pair(name: str, index: int, settings: PhantomSettings) -> PhantomPair:
    """Pair number `index` of a cohort. The same settings and index give the same pair, whatever the others."""
    seed = int(rng_for(settings.seed, "pair", index).integers(2**62))
    canvas = canvas_um(seed, settings)
    atlas = build_atlas(seed, canvas, settings.size_mm * 1000, settings.biology)
    he_nuclei = populate(seed, "he", atlas, settings.biology)
    if settings.mode == "serial":
        ihc_atlas = neighbouring_section(atlas, seed)
        ihc_nuclei = populate(seed, "ihc", ihc_atlas, settings.biology)
    else:
        ihc_atlas, ihc_nuclei = atlas, he_nuclei
    pose = make_pose(seed, atlas, canvas, settings)
    he = _he_scene(seed, atlas, he_nuclei, pose, settings)
    ihc = _ihc_scene(seed, ihc_atlas, ihc_nuclei, pose, settings)
    artefact = np.zeros(atlas.shape, bool)
    tiles = make_table(pose.he_size, settings.he_mpp, atlas, he_nuclei, ihc_nuclei, artefact)
    marks_he, marks_ihc = landmarks(seed, atlas, pose.transform, settings.he_mpp)
    truth = PairTruth(
        pair=name,
        he_mpp=settings.he_mpp,
        ihc_mpp=settings.ihc_mpp,
        transform=pose.transform,
        landmarks_he=marks_he,
        landmarks_ihc=marks_ihc,
        he_nuclei=he_nuclei,
        ihc_nuclei=ihc_nuclei,
        tiles=tiles,
        summary=summarize(ihc_nuclei, tiles),
    )
    extra = {"mode": settings.mode, "he_optics": he.optics.to_dict(), "ihc_optics": ihc.optics.to_dict()}
    return PhantomPair(he, ihc, truth, extra)


def _thickness(seed: int, slide: str, atlas: Atlas) -> Image:
    """The microtome's waves and uneven staining: absorbance varies smoothly, each stain a little on its own."""
    rng = rng_for(seed, "thickness", slide)
    common = 0.07 * smooth_field(rng, atlas.shape, 80)
    own = [0.07 * smooth_field(rng, atlas.shape, 80) for _ in range(2)]
    return np.stack([np.clip(1 + common + part, 0.7, 1.3) for part in own], axis=-1).astype(np.float32)


def _he_scene(seed: int, atlas: Atlas, nuclei: Nuclei, pose: Pose, settings: PhantomSettings) -> SlideScene:
    mpp = settings.he_mpp
    placed = PlacedNuclei(nuclei, nuclei.world_um / mpp, nuclei.angle.astype(np.float64), False, mpp)
    piece = Piece(atlas, placed, _WorldFromHe(mpp), _thickness(seed, "he", atlas))
    return SlideScene(pose.he_size, mpp, False, (piece,), slide_optics(seed, "he"), seed)


def _ihc_scene(seed: int, atlas: Atlas, nuclei: Nuclei, pose: Pose, settings: PhantomSettings) -> SlideScene:
    placed = place_on_ihc(nuclei, pose.transform, settings)
    piece = Piece(atlas, placed, _WorldFromIhc(pose.transform, settings.he_mpp), _thickness(seed, "ihc", atlas))
    return SlideScene(pose.ihc_size, settings.ihc_mpp, True, (piece,), slide_optics(seed, "ihc"), seed)


def place_on_ihc(nuclei: Nuclei, transform: PairTransform, settings: PhantomSettings) -> PlacedNuclei:
    """Nuclei of the world on the IHC slide: moved and turned with the tissue, their size kept."""
    matrix: Affine2D = transform.ihc_from_he
    direction = np.stack([np.cos(nuclei.angle), np.sin(nuclei.angle)], axis=1).astype(np.float64)
    turned = direction @ matrix.matrix[:2, :2].T
    return PlacedNuclei(
        nuclei=nuclei,
        px0=transform.to_ihc(nuclei.world_um / settings.he_mpp),
        angle=np.arctan2(turned[:, 1], turned[:, 0]),
        mirrored=matrix.mirrored,
        mpp=settings.ihc_mpp,
    )


def slide_names(name: str, suffix: str, folder: Path) -> tuple[Path, Path]:
    """Paths of the H&E and of the IHC slide of a pair."""
    return folder / f"{name}_he{suffix}", folder / f"{name}_ihc{suffix}"
