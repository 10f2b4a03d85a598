"""SimpleITK and elastix on the same pictures: affine, then B-spline, by Mattes' mutual information, multi-resolution.

    pip install 'virtual-stain[bench]'        (SimpleITK-SimpleElastix: both in one module)

SimpleITK's settings follow its own examples (50 bins, 5 % of the pixels, regular steps, moments to start from).
Elastix' are its own default parameter maps, started with the middles on each other, with the same mesh of 8 × 8: its
default spacing of 8 is meant for voxels. Both see grey absorbance of the same overviews that our registration reads.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.geometry import Points
from virtual_stain.registration.register import side_images
from virtual_stain.registration.working import SideImage
from virtual_stain.slides.slide import SlideRef, open_slide

_SAMPLES = 0.05
_MESH = (8, 8)

Rival = Callable[[SlideRef, SlideRef, Points], tuple[Points, float]]


def rivals() -> dict[str, Rival]:
    """Name → the function that registers with it; elastix only where SimpleITK was built with it."""
    import SimpleITK

    found: dict[str, Rival] = {"SimpleITK": register_with_simpleitk}
    if hasattr(SimpleITK, "ElastixImageFilter"):
        found["elastix"] = register_with_elastix
    return found


def register_with_simpleitk(he: SlideRef, ihc: SlideRef, he_points: Points) -> tuple[Points, float]:
    """(float64[N, 2]: where the H&E points come to lie in IHC level-0 px, seconds). Pixel sizes must be known."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    start = time.perf_counter()
    with open_slide(he) as a, open_slide(ihc) as b:
        sides = side_images(a, b, RegistrationSettings(), TissueSettings())
    fixed, moving = (_image(side) for side in sides)
    first = SimpleITK.CenteredTransformInitializer(
        fixed, moving, SimpleITK.AffineTransform(2), SimpleITK.CenteredTransformInitializerFilter.MOMENTS
    )
    affine = _method()
    affine.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    affine.SetOptimizerScalesFromPhysicalShift()
    affine.SetInitialTransform(first, inPlace=True)
    affine.Execute(fixed, moving)
    spline = SimpleITK.BSplineTransformInitializer(fixed, list(_MESH), order=3)
    local = _method()
    local.SetOptimizerAsGradientDescentLineSearch(5.0, 40, 1e-4, 5)
    local.SetOptimizerScalesFromPhysicalShift()
    local.SetMovingInitialTransform(first)
    local.SetInitialTransform(spline, inPlace=True)
    local.Execute(fixed, moving)
    both = SimpleITK.CompositeTransform([first, spline])
    seconds = time.perf_counter() - start
    mapped = np.array([both.TransformPoint(p.tolist()) for p in _physical(sides[0], he_points)]).reshape(-1, 2)
    return _px0(sides[1], mapped), seconds


def register_with_elastix(he: SlideRef, ihc: SlideRef, he_points: Points) -> tuple[Points, float]:
    """What `register_with_simpleitk` returns, by elastix; NaN where it gives up."""
    import SimpleITK

    start = time.perf_counter()
    with open_slide(he) as a, open_slide(ihc) as b:
        sides = side_images(a, b, RegistrationSettings(), TissueSettings())
    fixed, moving = (_image(side) for side in sides)
    affine, spline = (SimpleITK.GetDefaultParameterMap(kind) for kind in ("affine", "bspline"))
    affine["AutomaticTransformInitialization"] = ["true"]
    affine["AutomaticTransformInitializationMethod"] = ["CenterOfGravity"]
    extent = max(v * s for v, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True))
    spline["FinalGridSpacingInPhysicalUnits"] = [str(extent / _MESH[0])]
    affine["WriteResultImage"] = spline["WriteResultImage"] = ["false"]
    with tempfile.TemporaryDirectory() as folder:
        method = SimpleITK.ElastixImageFilter()
        method.SetNumberOfThreads(2)
        method.SetFixedImage(fixed)
        method.SetMovingImage(moving)
        method.SetParameterMap(affine)
        method.AddParameterMap(spline)
        _quiet(method, folder)
        try:
            method.Execute()
        except RuntimeError:  # "Too many samples map outside moving image buffer": it has lost the tissue
            return np.full_like(he_points, np.nan), time.perf_counter() - start
        seconds = time.perf_counter() - start
        return _px0(sides[1], _mapped(method, moving, _physical(sides[0], he_points), folder)), seconds


def _mapped(method, moving, physical: Points, folder: str) -> Points:  # type: ignore[no-untyped-def]
    """Points through what elastix found; it takes and gives them in files."""
    import SimpleITK

    points = Path(folder) / "points.txt"
    points.write_text(f"point\n{len(physical)}\n" + "".join(f"{x:.6f} {y:.6f}\n" for x, y in physical))
    apply = SimpleITK.TransformixImageFilter()
    apply.SetMovingImage(moving)
    apply.SetTransformParameterMap(method.GetTransformParameterMap())
    apply.SetFixedPointSetFileName(str(points))
    _quiet(apply, folder)
    apply.Execute()
    lines = (Path(folder) / "outputpoints.txt").read_text().splitlines()
    told = [line.split("OutputPoint = [")[1].split("]")[0].split() for line in lines if "OutputPoint = [" in line]
    return np.array(told, np.float64).reshape(-1, 2)


def _quiet(work, folder: str) -> None:  # type: ignore[no-untyped-def]
    work.SetOutputDirectory(folder)
    work.LogToConsoleOff()
    work.LogToFileOff()


def _physical(side: SideImage, points: Points) -> Points:
    """Level-0 px as µm of the overview; ITK puts the middle of the first pixel at 0."""
    return (side.px0_from_ov.inverse().apply(points) - 0.5) * np.array(side.unit_per_ov)


def _px0(side: SideImage, physical: Points) -> Points:
    return side.px0_from_ov.apply(physical / np.array(side.unit_per_ov) + 0.5)


def _image(side: SideImage):  # type: ignore[no-untyped-def]
    import SimpleITK

    grey = 255 - cv2.cvtColor(side.rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    image = SimpleITK.GetImageFromArray(np.where(side.mask, grey, 0).astype(np.float32))
    image.SetSpacing([float(v) for v in side.unit_per_ov])
    return image


def _method():  # type: ignore[no-untyped-def]
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SAMPLES, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    return method
