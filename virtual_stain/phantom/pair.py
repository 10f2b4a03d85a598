"""One pair of slides from one seed: tissue, sections, pose, scenes, truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.geometry import Affine2D, Points
from virtual_stain.phantom.artefacts import Bubble, Region, covered, he_artefacts, ihc_bubble, torn
from virtual_stain.phantom.atlas import Atlas, build_atlas, neighbouring_section, tissue_area_um2, world_points
from virtual_stain.phantom.cells import Nuclei
from virtual_stain.phantom.he_labs import he_photographed
from virtual_stain.phantom.labs import photographed, restained
from virtual_stain.phantom.noise import Image, rng_for, smooth_field
from virtual_stain.phantom.populate import populate
from virtual_stain.phantom.pose import Pose, canvas_um, control_um, landmarks, make_pose
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


@dataclass(frozen=True, slots=True)
class _WorldFromCorner:
    mpp: float
    corner_px0: tuple[float, float]

    def __call__(self, px0: Points) -> Points:
        return (px0 - self.corner_px0) * self.mpp


def make_pair(name: str, index: int, settings: PhantomSettings) -> PhantomPair:
    """Pair number `index` of a cohort. The same settings and index give the same pair, whatever the others."""
    seed = int(rng_for(settings.seed, "pair", index).integers(2**62))
    canvas = canvas_um(seed, settings)
    atlas = build_atlas(seed, canvas, settings.size_mm * 1000, settings.biology)
    he_nuclei = _populate(seed, "he", atlas, settings)
    ihc_atlas, ihc_nuclei, missing = _ihc_section(seed, atlas, he_nuclei, settings)
    pose = make_pose(seed, atlas, canvas, settings)
    he, he_regions = _he_scene(seed, atlas, he_nuclei, pose, settings)
    ihc, ihc_regions = _ihc_scene(seed, ihc_atlas, ihc_nuclei, pose, settings)
    points = world_points(atlas)
    artefact = missing | covered(he_regions, points, atlas.shape)
    if ihc_regions:
        on_ihc = pose.transform.to_ihc(points / settings.he_mpp) * settings.ihc_mpp
        artefact |= covered(ihc_regions, on_ihc, atlas.shape)
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
    extra = {
        "mode": settings.mode,
        "artefacts": list(settings.artefacts),
        "control_x_ihc_px0": pose.control_x_px0,
        "tissue_area_um2": tissue_area_um2(atlas),
        "he_optics": he.optics.to_dict(),
        "ihc_optics": ihc.optics.to_dict(),
    }
    return PhantomPair(he, ihc, truth, extra)


def _populate(seed: int, section: str, atlas: Atlas, settings: PhantomSettings) -> Nuclei:
    return populate(seed, section, atlas, settings.biology, marker=settings.marker, hard=settings.hard)


def _ihc_section(
    seed: int, atlas: Atlas, he_nuclei: Nuclei, settings: PhantomSettings
) -> tuple[Atlas, Nuclei, npt.NDArray[np.bool_]]:
    """Tissue and nuclei of the IHC section, and where it has lost a piece."""
    section = neighbouring_section(atlas, seed) if settings.mode == "serial" else atlas
    missing = np.zeros(atlas.shape, bool)
    if "missing" in settings.artefacts:
        section, missing = torn(section, seed)
    if settings.mode == "serial":
        nuclei = _populate(seed, "ihc", section, settings)
    else:
        nuclei = he_nuclei.select(section.at(section.tissue, he_nuclei.world_um) > 2)
    return section, restained(nuclei, seed, settings.lab) if settings.lab else nuclei, missing


def _thickness(seed: int, slide: str, atlas: Atlas) -> Image:
    """The microtome's waves and uneven staining: absorbance varies smoothly, each stain a little on its own."""
    rng = rng_for(seed, "thickness", slide)
    common = 0.07 * smooth_field(rng, atlas.shape, 80)
    own = [0.07 * smooth_field(rng, atlas.shape, 80) for _ in range(2)]
    result: Image = np.stack([np.clip(1 + common + part, 0.7, 1.3) for part in own], axis=-1).astype(np.float32)
    return result


def _he_scene(
    seed: int, atlas: Atlas, nuclei: Nuclei, pose: Pose, settings: PhantomSettings
) -> tuple[SlideScene, list[Region]]:
    mpp = settings.he_mpp
    placed = PlacedNuclei(nuclei, nuclei.world_um / mpp, nuclei.angle.astype(np.float64), False, mpp)
    piece = Piece(atlas, placed, _WorldFromHe(mpp), _thickness(seed, "he", atlas))
    on_layers, on_rgb, regions = he_artefacts(seed, settings.artefacts, atlas, mpp)
    optics = slide_optics(seed, "he", hard=settings.hard)
    if settings.lab:
        optics = he_photographed(optics, seed, settings.lab)
    return SlideScene(pose.he_size, mpp, False, (piece,), optics, seed, on_layers, on_rgb), regions


def _ihc_scene(
    seed: int, atlas: Atlas, nuclei: Nuclei, pose: Pose, settings: PhantomSettings
) -> tuple[SlideScene, list[Region]]:
    mpp = settings.ihc_mpp
    placed = place_on_ihc(nuclei, pose.transform, settings)
    pieces = [Piece(atlas, placed, _WorldFromIhc(pose.transform, settings.he_mpp), _thickness(seed, "ihc", atlas))]
    if pose.control_x_px0 is not None:
        pieces.append(_control(seed, pose.control_x_px0, settings))
    on_rgb: tuple[Bubble, ...] = ()
    if "bubble" in settings.artefacts:
        on_rgb = (ihc_bubble(seed, atlas, lambda p: pose.transform.to_ihc(p / settings.he_mpp) * mpp, mpp),)
    optics = slide_optics(seed, "ihc", hard=settings.hard)
    if settings.lab:
        optics = photographed(optics, seed, settings.lab)
    scene = SlideScene(pose.ihc_size, mpp, True, tuple(pieces), optics, seed, (), on_rgb)
    return scene, [bubble.region for bubble in on_rgb]


def _control(seed: int, x_px0: float, settings: PhantomSettings) -> Piece:
    """A piece of another tissue beside the section, as laboratories put it on IHC slides: not part of the truth."""
    mpp = settings.ihc_mpp
    size = control_um(settings)
    side = size + 100
    own = int(rng_for(seed, "control").integers(2**62))
    atlas = build_atlas(own, (side, side), size, settings.biology)
    nuclei = _populate(own, "control", atlas, settings)
    if settings.lab:
        nuclei = restained(nuclei, own, settings.lab)
    corner = np.array([x_px0, settings.margin_mm * 1000 / mpp])
    placed = PlacedNuclei(nuclei, nuclei.world_um / mpp + corner, nuclei.angle.astype(np.float64), False, mpp)
    return Piece(
        atlas, placed, _WorldFromCorner(mpp, (float(corner[0]), float(corner[1]))), _thickness(own, "c", atlas)
    )


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
