"""The pieces of the registration on images whose answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.fixtures.registration import ihc_density, noise, stained, toy_tissue, toy_transform
from virtual_stain.config import RegistrationSettings
from virtual_stain.geometry import Affine2D, Size
from virtual_stain.registration.field import FieldSettings, fit_field, slope
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.precision import common_variance, measure_precision
from virtual_stain.registration.quality import HoldOut, gather_evidence
from virtual_stain.registration.raster import from_index, pulled, to_index
from virtual_stain.registration.result import Verdict, verdict_of
from virtual_stain.registration.search import find_starts
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.warping import dense_displacement, pull, pull_map
from virtual_stain.registration.windows import Matches, WindowPlan, find_peaks, match_windows, own_errors
from virtual_stain.registration.working import SideImage, prepare

SETTINGS = FieldSettings(node_px=32.0, smoothness=4.0, robust_px=3.0, max_slope=0.4)


def foreground(density: np.ndarray) -> Foreground:
    return Foreground(density, density, density > 0, Affine2D.identity("px0", "work"), np.full(3, 240, np.float32))


@pytest.mark.parametrize(("rotation", "mirror"), [(0, False), (137, False), (180, True), (293, True)])
def test_search_finds_the_turn(rotation: float, mirror: bool) -> None:
    transform = toy_transform(rotation, mirror=mirror)
    tissue = toy_tissue(3)
    moved = ihc_density(tissue, transform, Size(580, 570))
    starts = find_starts(foreground(tissue), foreground(moved), coarse_px=100, angle_step_deg=8, scales=(1.0,), keep=5)
    points = np.array([[150.0, 150.0], [350.0, 250.0]])
    found = points @ starts[0].matrix[:2, :2].T + starts[0].matrix[:2, 2]
    assert np.linalg.norm(found - transform.to_ihc(points), axis=1).max() < 35


@pytest.mark.parametrize(("ihc_mpp", "unit_px"), [(2.0, 2.0), (5.0, 3.0), (6.0, 3.0), (12.0, 6.0)])
def test_one_coarse_side_does_not_make_the_windows_larger(ihc_mpp: float, unit_px: float) -> None:
    """Working at the pixel size of the coarser side, windows of half as many px once covered twice as many µm: the
    same sections, scanned coarsely on one side, came out differently."""
    sides = []
    for name, mpp in (("he_px0", 3.0), ("ihc_px0", ihc_mpp)):
        size = (round(500 * 3.0 / mpp), round(420 * 3.0 / mpp))
        density = cv2.resize(toy_tissue(3), size, interpolation=cv2.INTER_AREA)
        rgb = stained(density, (0.25, 0.55, 0.28), 1)
        sides.append(SideImage(rgb, density > 0.05, Affine2D.identity(name, "ov"), (mpp, mpp)))
    pair = prepare(*sides, RegistrationSettings())
    assert pair.unit_px == pytest.approx(unit_px)
    assert pair.coarsest_px == pytest.approx(max(ihc_mpp, 3.0) / unit_px)
    assert pair.fixed.tissue_px == pytest.approx(pair.moving.tissue_px, rel=0.03)


def test_pulling_with_the_identity_changes_nothing() -> None:
    """Half a pixel of a mistake in any convention would blur the image."""
    image = noise(1, (40, 50), 1.0)
    assert np.allclose(pull(image, pull_map((40, 50), np.eye(3), None)), image, atol=1e-5)
    assert np.allclose(pulled(image, np.eye(3), (50, 40)), image, atol=1e-5)
    matrix = np.array([[0.9, 0.2, 3.0], [-0.1, 1.1, 4.0], [0, 0, 1]])
    assert np.allclose(from_index(to_index(matrix)), matrix)


def test_dense_displacement_is_the_field_at_pixel_centres() -> None:
    field = DisplacementField((3.0, -2.0), (17.0, 13.0), np.stack([noise(k, (5, 6), 1.0) for k in (1, 2)], axis=-1))
    dense = dense_displacement((45, 60), field)
    y, x = np.mgrid[:45, :60] + 0.5
    expected = field.at(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(45, 60, 2)
    assert np.abs(dense - expected).max() < 1e-4


def test_windows_find_a_shift_to_a_tenth_of_a_pixel() -> None:
    tissue = toy_tissue(4)
    shift = np.eye(3)
    shift[:2, 2] = (2.3, -1.6)
    moved = pulled(tissue, np.linalg.inv(shift), (500, 420))
    plan = WindowPlan(factor=1.0, window=64, step=48, radius=6)
    matches = match_windows(foreground(tissue), foreground(moved), np.eye(3), None, plan)
    peaks = find_peaks(matches)
    assert len(matches) > 15
    assert np.abs(np.median(peaks.shifts, axis=0) - [2.3, -1.6]).max() < 0.1
    # with the shift in the matrix nothing is left
    again = find_peaks(match_windows(foreground(tissue), foreground(moved), shift, None, plan))
    assert np.abs(np.median(again.shifts, axis=0)).max() < 0.1


def surfaces_with_peaks(shifts: np.ndarray, radius: int = 12) -> np.ndarray:
    steps = np.arange(-radius, radius + 1)
    dx = (steps[None] - shifts[:, :1]) ** 2
    dy = (steps[None] - shifts[:, 1:]) ** 2
    return np.asarray(0.8 * np.exp(-(dy[:, :, None] + dx[:, None, :]) / 18), np.float32)


def grid_points(step: int = 24, shape: tuple[int, int] = (400, 480)) -> np.ndarray:
    y, x = np.mgrid[step // 2 : shape[0] : step, step // 2 : shape[1] : step]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)


def true_shift(points: np.ndarray) -> np.ndarray:
    return np.stack([3 * np.sin(points[:, 0] / 110), 2 * np.cos(points[:, 1] / 90)], axis=1)


def test_field_outvotes_wrong_windows() -> None:
    rng = np.random.default_rng(2)
    points = grid_points()
    shifts = true_shift(points)
    wrong = rng.random(len(points)) < 0.3
    shifts[wrong] = rng.uniform(-11, 11, (wrong.sum(), 2))
    matches = Matches(points, np.zeros_like(points), surfaces_with_peaks(shifts), 1.0)
    field = fit_field((400, 480), matches, SETTINGS)
    assert field is not None
    gap = np.linalg.norm(field.at(points) - true_shift(points), axis=1)
    assert np.percentile(gap, 90) < 0.7


def test_field_never_folds() -> None:
    """Opposite pulls side by side: stiffened until the slope is below the limit."""
    points = grid_points()
    shifts = np.where(points[:, :1] < 240, [[11.0, 0.0]], [[-11.0, 0.0]])
    matches = Matches(points, np.zeros_like(points), surfaces_with_peaks(shifts), 4.0)
    field = fit_field((400, 480), matches, FieldSettings(32.0, 0.01, 50.0, 0.2))
    assert field is not None
    assert slope(field) <= 0.2
    wavy = field.values_px0[..., 0]
    assert wavy.max() > 5


def test_what_is_known_stays_where_no_window_speaks() -> None:
    """Windows at a finer level cover a part of the tissue: elsewhere the coarser displacement must survive."""
    prior = DisplacementField((0.0, 0.0), (40.0, 40.0), np.full((12, 14, 2), 5.0, np.float32))
    points = grid_points()
    points = points[points[:, 0] < 150]
    shifts = np.full_like(points, 6.0)
    matches = Matches(points, np.full_like(points, 5.0), surfaces_with_peaks(shifts - 5.0), 1.0)
    field = fit_field((400, 480), matches, SETTINGS, prior)
    assert field is not None
    near, far = field.at([[80.0, 200.0], [460.0, 200.0]])
    assert np.allclose(near, 6.0, atol=0.2)
    assert np.all((far > 4.9) & (far < 6.3))


def test_slope_of_a_shear_is_exact() -> None:
    values = np.zeros((3, 4, 2), np.float32)
    values[..., 0] = np.arange(3)[:, None] * 2.0  # ux grows by 2 per row of 10 px
    assert slope(DisplacementField((0, 0), (10.0, 10.0), values)) == pytest.approx(0.2)


def half_shared_windows(shared: float, bend_px: float = 0.0) -> Matches:
    """Windows of two sections of which the part `shared` of the texture is common; `bend_px`: what displaces them."""
    common, he_own, ihc_own = (noise(k, (660, 660), 2.5) for k in (70, 71, 72))
    y, x = np.mgrid[:660, :660].astype(np.float32)
    bent = cv2.remap(common, x + np.float32(bend_px) * noise(73, (660, 660), 90.0), y, cv2.INTER_CUBIC)
    sides = [a * shared + b * (1 - shared**2) ** 0.5 for a, b in ((common, he_own), (bent, ihc_own))]
    plan = WindowPlan(factor=1.0, window=64, step=64, radius=16)
    return match_windows(*(foreground((i - i.min() + 1).astype(np.float32)) for i in sides), np.eye(3), None, plan)


@pytest.mark.parametrize("shared", [0.7, 0.8, 0.9])
def test_windows_know_their_own_error(shared: float) -> None:
    """Sections that share a part of their texture, nothing displaced: all that is found is the windows' own error."""
    matches = half_shared_windows(shared)
    peaks = find_peaks(matches)
    told = own_errors(matches, peaks)
    met = np.linalg.norm(peaks.shifts, axis=1) / 2**0.5
    right = met < 3 * np.median(met)
    assert right.mean() > 0.85
    assert 0.6 < np.sqrt((told[right] ** 2).mean() / (met[right] ** 2).mean()) < 1.6


def test_the_windows_own_error_was_stated_as_the_transforms() -> None:
    """Where nothing is displaced, a transform without displacement is right, and the windows' scatter is not its error;
    where something is, and the transform does not follow, it is."""
    how = HoldOut(SETTINGS, 64.0, stride=3)
    told = []
    for bend_px in (0.0, 3.0):
        windows = half_shared_windows(0.8, bend_px)
        told.append(measure_precision((660, 660), windows, windows, None, how))
    still, bent = told
    assert still.error_sigma < 0.7 * still.recognised_sigma
    assert bent.error_sigma > 0.9 * bent.recognised_sigma
    # the windows that say little by themselves are usually off by more
    assert np.ptp(still.usual) > 0.2 * still.recognised_sigma


def test_one_sharp_window_does_not_decide_what_all_have_in_common() -> None:
    """Of twenty windows that are 3 px off, one is sharp and not off: the likelihood is greatest at "nothing" then."""
    distances, own, trust = np.full(20, 3.0), np.full(20, 0.5), np.ones(20)
    alone = common_variance(distances, own, trust)
    assert alone == pytest.approx(4.5 - 0.25, rel=1e-3)
    assert common_variance(np.full(20, 0.1), own, trust) == 0.0
    distances[0], own[0] = 1e-6, 1e-5
    assert common_variance(distances, own, trust) > 0.9 * alone


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_evidence_measures_the_error_and_knows_chance(sigma: float) -> None:
    rng = np.random.default_rng(3)
    fit_points, probe_points = grid_points(), grid_points(60)
    fit = Matches(fit_points, np.zeros_like(fit_points), surfaces_with_peaks(true_shift(fit_points)), 1.0)
    shifts = true_shift(probe_points) + rng.normal(0, sigma, probe_points.shape)
    lost = rng.random(len(shifts)) < 0.3
    shifts[lost] = rng.uniform(-11, 11, (lost.sum(), 2))
    probes = Matches(probe_points, np.zeros_like(probe_points), surfaces_with_peaks(shifts), 1.0)
    how = HoldOut(SETTINGS, 40.0, stride=3)
    precision = measure_precision((400, 480), fit, probes, fit_field((400, 480), fit, SETTINGS), how)
    assert 0.7 * sigma < precision.recognised_sigma < 1.4 * sigma + 0.3
    assert abs(precision.share - 0.7) < 0.15
    assert precision.sigma == pytest.approx(precision.recognised_sigma / precision.share**0.5)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_held_out_windows_confirm_what_is_right_and_nothing_else(sigma: float) -> None:
    rng = np.random.default_rng(3)
    fit_points, probe_points = grid_points(), grid_points(30)  # four grids of 60 px
    fit = Matches(fit_points, np.zeros_like(fit_points), surfaces_with_peaks(true_shift(fit_points)), 1.0)
    shifts = true_shift(probe_points) + rng.normal(0, sigma, probe_points.shape)
    lost = rng.random(len(shifts)) < 0.3
    shifts[lost] = rng.uniform(-11, 11, (lost.sum(), 2))
    probes = Matches(probe_points, np.zeros_like(probe_points), surfaces_with_peaks(shifts), 1.0)
    evidence = gather_evidence((400, 480), fit, probes, SETTINGS, 40.0)
    assert 0.5 < evidence.consensus < 0.95
    assert evidence.chance_log10 < -8
    assert len(evidence) == pytest.approx(len(probes) / 4, abs=2)
    lost_shifts = rng.uniform(-11, 11, probe_points.shape)
    noise_only = Matches(probe_points, np.zeros_like(probe_points), surfaces_with_peaks(lost_shifts), 1.0)
    assert gather_evidence((400, 480), fit, noise_only, SETTINGS, 40.0).chance_log10 > -4


def test_windows_held_out_together_left_none_to_predict_them_from() -> None:
    """Every second window of a grid was held out, and all within one window of them: three quarters of the tissue had
    nothing left, and right registrations of bent sections were rejected in some orientations."""

    def bent(points: np.ndarray) -> Matches:
        shifts = 8 * np.stack([np.sin(points[:, 1] / 45), np.cos(points[:, 0] / 45)], axis=1)
        return Matches(points, np.zeros_like(points), surfaces_with_peaks(shifts), 1.0)

    evidence = gather_evidence((400, 480), bent(grid_points(16)), bent(grid_points(24)), SETTINGS, 48.0)
    assert evidence.consensus > 0.9  # was 0.3
    assert evidence.chance_log10 < -9  # was −5


def test_no_probe_is_no_evidence() -> None:
    none = Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 25, 25), np.float32), 1.0)
    evidence = gather_evidence((100, 100), none, none, SETTINGS, 40.0)
    assert len(evidence) == 0
    assert evidence.chance_log10 == 0.0
    precision = measure_precision((100, 100), none, none, None, HoldOut(SETTINGS, 40.0, stride=3))
    assert len(precision) == 0
    assert np.isnan(precision.sigma)


@pytest.mark.parametrize(
    ("median", "verdict"),
    [(0.0, "accept"), (30.0, "accept"), (30.1, "review"), (60.0, "review"), (60.1, "reject"), (None, "reject")],
)
def test_verdict_goes_by_the_median(median: float | None, verdict: str) -> None:
    assert verdict_of(median, RegistrationSettings()) is Verdict(verdict)
