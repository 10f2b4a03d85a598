"""Cells drawn from the fields: where they lie, how they look, which are positive."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from virtual_stain.config.phantom import PhantomBiology
from virtual_stain.geometry import Points
from virtual_stain.phantom.atlas import Atlas
from virtual_stain.phantom.cells import N_SHAPES, Kind, Nuclei
from virtual_stain.phantom.membranes import GAP_UM, is_membrane, stain_membranes
from virtual_stain.phantom.noise import Image, rng_for
from virtual_stain.phantom.packing import pack


def patient_biology(seed: int, biology: PhantomBiology) -> tuple[float, float]:
    """(mean log-odds, mean nuclear diameter in µm) of one patient."""
    rng = rng_for(seed, "patient")
    logit = biology.mean_logit + biology.patient_logit_sd * float(np.clip(rng.standard_normal(), -2, 2))
    return logit, biology.nucleus_um + biology.patient_nucleus_sd_um * float(np.clip(rng.standard_normal(), -2, 2))


def probability(seed: int, atlas: Atlas, biology: PhantomBiology) -> Image:
    """float32[h, w] on the atlas grid: the noise-free field, the probability that a tumour cell is positive."""
    logit, _ = patient_biology(seed, biology)
    result: Image = (1 / (1 + np.exp(-(logit + biology.field_logit_sd * atlas.proliferation)))).astype(np.float32)
    return result


def morphology(seed: int, atlas: Atlas, biology: PhantomBiology) -> Image:
    """float32[h, w] on the atlas grid: what the look of the nuclei follows, the patient's level included."""
    if not biology.patient_coupling or not biology.field_logit_sd:
        return atlas.morphology
    logit, _ = patient_biology(seed, biology)
    shift = biology.patient_coupling * (logit - biology.mean_logit) / biology.field_logit_sd
    result: Image = np.clip(atlas.morphology + shift, -4, 4).astype(np.float32)
    return result


def populate(
    seed: int, section: str, atlas: Atlas, biology: PhantomBiology, *, marker: str = "ki67", hard: bool = False
) -> Nuclei:
    """All nuclei of one section. Other `section` names draw other cells from the same fields.

    `hard`: crowded, overlapping and unevenly stained nuclei, fainter positives.
    """
    rng = rng_for(seed, "cells", section)
    atlas = dataclasses.replace(atlas, morphology=morphology(seed, atlas, biology))
    _, nucleus_um = patient_biology(seed, biology)
    diameter = np.clip(nucleus_um + biology.nucleus_slope_um * atlas.morphology, 6.8, 12.0)
    # crowding: sparse with wide cytoplasm where little proliferates, nucleus beside nucleus where much does
    spacing = np.maximum(11.3 - 0.35 * atlas.morphology, 0.94 * diameter).astype(np.float32)
    if hard:
        spacing *= np.float32(0.85)
    if is_membrane(marker):
        spacing = np.maximum(spacing, 1.05 * diameter + 2 * GAP_UM + 1.6).astype(np.float32)  # room for cytoplasm
    solid = (atlas.tissue > 6) & (atlas.hole < -4)
    tumour_um = pack(rng, solid & (atlas.nest > 3), spacing)
    tumour = _tumour(rng, atlas, tumour_um, diameter.astype(np.float32), probability(seed, atlas, biology))
    stroma = solid & (atlas.nest < -3) & (atlas.fat < 0)
    gap = np.full(atlas.shape, 8.0, np.float32)
    immune_um = pack(rng, stroma, gap * 0.78, obstacles_um=tumour_um, rounds=3)
    immune_um = immune_um[rng.random(len(immune_um)) < atlas.at(atlas.immune, immune_um) * 1.3 + 0.012]
    spindle_um = pack(
        rng, stroma, gap * 1.7, obstacles_um=np.concatenate([tumour_um, immune_um]) if len(immune_um) else tumour_um
    )
    spindle_um = spindle_um[rng.random(len(spindle_um)) < 0.75]
    nuclei = Nuclei.concatenated([tumour, _lymphocytes(rng, immune_um), _spindles(rng, atlas, spindle_um)])
    if hard:
        nuclei = _harder(rng_for(seed, "hard", section), nuclei)
    return stain_membranes(seed, section, nuclei, marker, hard=hard) if is_membrane(marker) else nuclei


def _harder(rng: np.random.Generator, nuclei: Nuclei) -> Nuclei:
    """Larger, so that neighbours overlap; paler and darker ones side by side; positives from 0.18 OD."""
    n = len(nuclei)
    grow = np.where(nuclei.tumour, rng.uniform(1.0, 1.15, n), 1.0)
    dab = np.where(nuclei.positive, np.maximum(nuclei.dab_od * rng.uniform(0.6, 1.1, n), 0.18), nuclei.dab_od)
    return dataclasses.replace(
        nuclei,
        radius_um=(nuclei.radius_um * grow).astype(np.float32),
        hematoxylin_od=(nuclei.hematoxylin_od * rng.uniform(0.55, 1.25, n)).astype(np.float32),
        dab_od=dab.astype(np.float32),
    )


def _columns(
    rng: np.random.Generator, world_um: Points, kind: Kind, radius_um: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[np.generic]]:
    n = len(world_um)
    return {
        "world_um": world_um,
        "kind": np.full(n, kind, np.uint8),
        "radius_um": radius_um.astype(np.float32),
        "elongation": np.ones(n, np.float32),
        "angle": rng.uniform(0, 2 * np.pi, n).astype(np.float32),
        "shape": rng.integers(0, N_SHAPES, n).astype(np.uint8),
        "chromatin": np.zeros(n, np.float32),
        "mitosis": np.zeros(n, bool),
        "positive": np.zeros(n, bool),
        "dab_od": np.abs(rng.normal(0, 0.015, n)).astype(np.float32),
        "hematoxylin_od": np.ones(n, np.float32),
        "field": np.zeros(n, np.float32),
        "membrane_od": np.zeros(n, np.float32),
        "membrane_fraction": np.zeros(n, np.float32),
        "intensity": np.zeros(n, np.uint8),
    }


def _positive_dab(rng: np.random.Generator, n: int) -> npt.NDArray[np.float32]:
    """Mean nuclear DAB of positive cells: from faint 1+ to 3+, OD."""
    result: npt.NDArray[np.float32] = np.clip(0.24 + rng.gamma(2.2, 0.19, n), 0.24, 1.25).astype(np.float32)
    return result


def _tumour(rng: np.random.Generator, atlas: Atlas, world_um: Points, diameter_um: Image, field: Image) -> Nuclei:
    n = len(world_um)
    m = atlas.at(atlas.morphology, world_um)
    high = 1 / (1 + np.exp(-1.3 * m))
    # pleomorphism: the spread of sizes grows with the grade
    spread = rng.standard_normal(n).clip(-2.2, 2.2) * (0.06 + 0.08 * high)
    diameter = atlas.at(diameter_um, world_um) * np.exp(spread)
    if n > 1:
        # nuclei may touch, and flatten where they do; they never lie inside one another
        nearest = cKDTree(world_um).query(world_um, k=2)[0][:, 1]
        diameter = np.minimum(diameter, nearest * 1.12)
    diameter = np.clip(diameter, 6.3, 14.0)
    columns = _columns(rng, world_um, Kind.TUMOUR, diameter / 2)
    p = atlas.at(field, world_um)
    positive = rng.random(n) < p
    # every mitosis is positive; their frequency follows the morphology, not the field itself
    mitosis = positive & (rng.random(n) < (0.0008 + 0.016 * high**2) / np.maximum(p, 0.02))
    diameter = np.where(mitosis, diameter * 0.74, diameter)
    chromatin = np.clip(0.45 + 0.24 * m + rng.normal(0, 0.13, n), 0, 1)
    # vesicular nuclei spread the same DNA over a larger area: paler on average, coarser in texture
    size = (diameter / 9.0) ** -1.6
    columns["chromatin"] = chromatin.astype(np.float32)
    columns["elongation"] = (1 + rng.gamma(2.0, 0.11, n)).clip(1, 1.7).astype(np.float32)
    columns["mitosis"] = mitosis
    columns["positive"] = positive
    columns["field"] = p.astype(np.float32)
    density = np.where(mitosis, 1.15, (0.62 * size * rng.normal(1, 0.09, n)).clip(0.3, 1.0))
    columns["hematoxylin_od"] = density.astype(np.float32)
    columns["dab_od"] = np.where(positive, _positive_dab(rng, n), columns["dab_od"]).astype(np.float32)
    return Nuclei(**columns)  # type: ignore[arg-type]


def _lymphocytes(rng: np.random.Generator, world_um: Points) -> Nuclei:
    n = len(world_um)
    columns = _columns(rng, world_um, Kind.LYMPHOCYTE, rng.normal(5.5, 0.35, n).clip(4.6, 6.2) / 2)
    columns["hematoxylin_od"] = rng.normal(1.0, 0.08, n).clip(0.75, 1.2).astype(np.float32)
    columns["elongation"] = (1 + rng.gamma(1.5, 0.05, n)).clip(1, 1.25).astype(np.float32)
    columns["positive"] = rng.random(n) < 0.03
    columns["dab_od"] = np.where(columns["positive"], _positive_dab(rng, n), columns["dab_od"]).astype(np.float32)
    return Nuclei(**columns)  # type: ignore[arg-type]


def _spindles(rng: np.random.Generator, atlas: Atlas, world_um: Points) -> Nuclei:
    """Fibroblasts along the fibres; beside a vessel they are its endothelium, between fat cells fat nuclei."""
    n = len(world_um)
    columns = _columns(rng, world_um, Kind.FIBROBLAST, rng.normal(3.0, 0.35, n).clip(2.2, 4.0))
    gy, gx = np.gradient(atlas.psi)
    along = np.arctan2(atlas.at(gx, world_um), -atlas.at(gy, world_um)) if n else np.zeros(0)
    columns["angle"] = (along + rng.normal(0, 0.15, n)).astype(np.float32)
    columns["elongation"] = rng.normal(4.4, 1.2, n).clip(2.6, 8.0).astype(np.float32)
    columns["hematoxylin_od"] = rng.normal(0.72, 0.14, n).clip(0.35, 1.1).astype(np.float32)
    columns["chromatin"] = rng.uniform(0, 0.5, n).astype(np.float32)
    if n:
        near_vessel = atlas.at(atlas.hole, world_um) > -9
        columns["kind"] = np.where(near_vessel, Kind.ENDOTHELIUM, columns["kind"]).astype(np.uint8)
    columns["positive"] = rng.random(n) < 0.01
    columns["dab_od"] = np.where(columns["positive"], _positive_dab(rng, n), columns["dab_od"]).astype(np.float32)
    return Nuclei(**columns)  # type: ignore[arg-type]
