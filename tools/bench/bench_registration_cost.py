"""What registering a large pair costs: time and memory, reading included.

    python tools/bench/bench_registration_cost.py FOLDER [--side-mm 20] [--mpp 0.25]

Writes two pyramidal slides of that size into FOLDER (some minutes; kept when they are there), the IHC turned, stretched
and bent, then registers them in a process of its own and prints seconds, peak memory, and the error against the truth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fixtures.registration import ihc_density, noise, toy_tissue
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.geometry import Affine2D, Size
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.transform import DisplacementField, PairTransform
from virtual_stain.slides.slide import SlideRef, open_slide

_MAP_MPP = 4.0  # of the density map that the slides are enlarged from
_TILE = 512
_LEVELS = (1, 4, 16, 64)
_INKS = {"he": (0.25, 0.55, 0.28), "ihc": (0.34, 0.30, 0.18)}


def true_transform(side: int) -> PairTransform:
    """In px of the density map: turned by 63°, stretched by 2 %, bent by up to 60 µm."""
    angle = np.deg2rad(63)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1.02, 0.99])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = side / 2 - linear @ [side / 2, side / 2]
    values = np.stack([noise(k, (14, 14), 1.5) for k in (50, 51)], axis=-1)
    values *= 15 / np.abs(values).max()
    return PairTransform(Affine2D("ihc_px0", "he_px0", matrix), DisplacementField((0, 0), (side / 12,) * 2, values))


def write_slide(path: Path, density: np.ndarray, ink: tuple[float, ...], mpp: float) -> None:
    """The density map enlarged to `mpp` µm/px, as a tiled pyramid of JPEG."""
    scale = _MAP_MPP / mpp
    blank = None
    table = np.clip(243.0 * 10 ** (-np.linspace(0, 2, 256)[:, None] * np.array(ink)), 0, 255).astype(np.uint8)
    grey = np.clip(density * 127.5, 0, 255).astype(np.uint8)

    def tiles(factor: int, size: int) -> Iterator[bytes]:
        nonlocal blank
        across = -(-size // _TILE)
        step = factor / scale  # map px per px
        for row in range(across):
            for column in range(across):
                x, y, extent = column * _TILE * step, row * _TILE * step, _TILE * step
                part = grey[int(y) : int(np.ceil(y + extent)) + 1, int(x) : int(np.ceil(x + extent)) + 1]
                if blank is None or part.any():
                    warp = np.array([[step, 0, x + step / 2 - 0.5], [0, step, y + step / 2 - 0.5]])
                    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                    source = grey if step < 1 else cv2.blur(grey, (max(1, round(step)),) * 2)
                    tile = table[cv2.warpAffine(source, warp, (_TILE, _TILE), flags=flags)]
                    _, data = cv2.imencode(".jpg", tile[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
                    if not part.any():
                        blank = data.tobytes()
                    yield data.tobytes()
                else:
                    yield blank

    side = round(density.shape[0] * scale)
    temporary = path.with_suffix(".tmp")
    with tifffile.TiffWriter(temporary, bigtiff=True) as writer:
        for factor in _LEVELS:
            size = side // factor
            writer.write(
                tiles(factor, size), shape=(size, size, 3), dtype=np.uint8, tile=(_TILE, _TILE), photometric="ycbcr",
                subsampling=(2, 2), compression="jpeg", subfiletype=0 if factor == 1 else 1, metadata=None,
                resolution=(1e4 / mpp / factor,) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip
    temporary.replace(path)


def make(folder: Path, side_mm: float, mpp: float) -> tuple[Path, Path]:
    side = round(side_mm * 1000 / _MAP_MPP)
    paths = folder / f"he-{side_mm:g}mm.tiff", folder / f"ihc-{side_mm:g}mm.tiff"
    folder.mkdir(parents=True, exist_ok=True)
    if all(p.exists() for p in paths):
        return paths
    tissue = toy_tissue(3, (side, side))
    moved = ihc_density(tissue, true_transform(side), Size(side, side))
    for path, density, ink in zip(paths, (tissue, moved), _INKS.values(), strict=True):
        write_slide(path, density * (1 + 0.1 * noise(len(path.name), density.shape, 1.5)), ink, mpp)
    return paths


def peak_gb() -> float:
    """Largest resident memory of this process so far (getrusage would also count that of the process before exec)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def measure(folder: Path, side_mm: float, mpp: float) -> None:
    he_path, ihc_path = make(folder, side_mm, mpp)
    before = peak_gb()
    start, cpu = time.perf_counter(), time.process_time()
    with open_slide(SlideRef(he_path)) as he, open_slide(SlideRef(ihc_path)) as ihc:
        r = register_pair(he, ihc, RegistrationSettings(), TissueSettings())
        size = he.size
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_gb()
    side = round(side_mm * 1000 / _MAP_MPP)
    rng, scale = np.random.default_rng(1), _MAP_MPP / mpp
    angle, radius = rng.uniform(0, 2 * np.pi, 400), 0.3 * side * np.sqrt(rng.uniform(0, 1, 400))
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] + side / 2
    truth = true_transform(side).to_ihc(points) * scale
    error = np.linalg.norm(r.transform.to_ihc(points * scale) - truth, axis=1) * mpp
    print(
        f"{side_mm:g} mm, {size.width} × {size.height} px: {seconds:.1f} s ({cpu:.1f} processor s), "
        f"peak {peak:.2f} GB (before {before:.2f}), {r.verdict}, down to {r.finest_mpp:.2g} µm/px; "
        f"error median {np.median(error):.2f}, p90 {np.percentile(error, 90):.2f} µm, "
        f"stated {r.error_median_um:.1f}, {r.error_p95_um:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side-mm", type=float, default=20.0)
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    make(options.folder, options.side_mm, options.mpp)
    if options.measure:
        measure(options.folder, options.side_mm, options.mpp)
        return
    # a process of its own: making the slides takes more memory than registering them
    subprocess.run([sys.executable, *sys.argv, "--measure"], check=True)


if __name__ == "__main__":
    main()
