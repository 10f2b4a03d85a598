"""SimpleITK on the same pictures: affine, then B-spline, by Mattes' mutual information, multi-resolution.

    pip install 'virtual-stain[bench]'

Its settings follow its own examples (50 bins, 5 % of the pixels, regular steps, moments to start from), on grey
absorbance of the same overviews that our registration reads.
"""

from __future__ import annotations

import time

import cv2
import numpy as np

from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.geometry import Points
from virtual_stain.registration.register import side_images
from virtual_stain.registration.working import SideImage
from virtual_stain.slides.slide import SlideRef, open_slide

_SAMPLES = 0.05
_MESH = (8, 8)


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
    he_um, ihc_um = ((s.px0_from_ov, np.array(s.unit_per_ov)) for s in sides)
    # ITK puts the middle of the first pixel at 0
    physical = (he_um[0].inverse().apply(he_points) - 0.5) * he_um[1]
    mapped = np.array([both.TransformPoint(p.tolist()) for p in physical]).reshape(-1, 2)
    return ihc_um[0].apply(mapped / ihc_um[1] + 0.5), seconds


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
