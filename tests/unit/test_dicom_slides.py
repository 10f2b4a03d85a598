"""DICOM slides as other programs write them: what their headers say, leave out, or contradict."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from pydicom.encaps import encapsulate, generate_frames

from tests.fixtures.dicom_slides import write_dicom_slide
from virtual_stain.errors import SlideError
from virtual_stain.slides.slide import SlideRef, open_slide

MPP = 0.92


@pytest.fixture(scope="module")
def rgb():
    """uint8[560, 700, 3], smooth: six tiles on level 0."""
    y, x = np.mgrid[:560, :700]
    return np.stack([255 - x // 6, 120 + y // 8, 255 - (x + y) // 10], axis=-1).astype(np.uint8)


def level_0(slide):
    return slide.read_level(0, 0, 0, slide.size)


def parted(dataset, numbers=(1, 2)):
    """The instance as a concatenation of two, or those `numbers` of it."""
    frames = list(generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))
    middle = len(frames) // 2
    parts = []
    for number, first, part in ((1, 0, frames[:middle]), (2, middle, frames[middle:])):
        made = copy.deepcopy(dataset)
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID}.{number}"
        made.ConcatenationUID = f"{dataset.SOPInstanceUID}.9"
        made.SOPInstanceUIDOfConcatenationSource = dataset.SOPInstanceUID
        made.InConcatenationNumber, made.InConcatenationTotalNumber = number, 2
        made.ConcatenationFrameOffsetNumber, made.NumberOfFrames = first, len(part)
        made.PixelData = encapsulate(part)
        parts.append(made)
    return [part for part in parts if part.InConcatenationNumber in numbers]


@pytest.mark.parametrize("edit", [None, lambda d: parted(d) if d.NumberOfFrames > 1 else d], ids=["plain", "parted"])
def test_pixels_and_levels_of_a_slide_and_of_a_concatenation(tmp_path, rgb, edit):
    with open_slide(SlideRef(write_dicom_slide(tmp_path, rgb, MPP, levels=(1, 2, 4), edit=edit))) as slide:
        assert [(s.width, s.height) for s in slide.level_sizes] == [(700, 560), (350, 280), (175, 140)]
        assert slide.mpp.x == pytest.approx(MPP)
        assert not slide.warnings
        assert np.abs(level_0(slide).astype(int) - rgb).mean() < 1


def test_half_a_concatenation_is_refused(tmp_path, rgb):
    path = write_dicom_slide(tmp_path, rgb, MPP, levels=(1,), edit=lambda d: parted(d, (1,)))
    with pytest.raises(SlideError, match="concatenation"):
        open_slide(SlideRef(path))


def without_frames(dataset):
    frames = list(generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))
    dataset.NumberOfFrames = len(frames) - 2
    dataset.PixelData = encapsulate(frames[:-2])
    return dataset


def test_frames_that_are_not_there_are_no_glass(tmp_path, rgb):
    with (
        open_slide(SlideRef(write_dicom_slide(tmp_path, rgb, MPP, levels=(1,), edit=without_frames))) as slide,
        pytest.raises(SlideError, match="cannot be read"),
    ):
        level_0(slide)


def without_spacing(dataset):
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    return dataset


def test_without_pixel_spacing_the_imaged_volume_tells_the_size(tmp_path, rgb):
    with open_slide(SlideRef(write_dicom_slide(tmp_path, rgb, MPP, edit=without_spacing))) as slide:
        assert slide.mpp.x == pytest.approx(MPP, rel=1e-3)
        assert slide.mpp.origin == "imaged-volume"


def test_without_any_statement_there_is_no_pixel_size(tmp_path, rgb):
    def edit(dataset):
        del dataset.ImagedVolumeWidth, dataset.ImagedVolumeHeight
        return without_spacing(dataset)

    with open_slide(SlideRef(write_dicom_slide(tmp_path, rgb, MPP, edit=edit))) as slide:
        assert slide.mpp is None


def test_a_spacing_that_contradicts_the_imaged_volume_was_believed_in_silence(tmp_path, rgb):
    def edit(dataset):
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [MPP / 2000, MPP / 2000]
        return dataset

    with open_slide(SlideRef(write_dicom_slide(tmp_path, rgb, MPP, levels=(1,), edit=edit))) as slide:
        assert any("0.46 µm/px" in w and "0.92 µm/px (imaged-volume)" in w for w in slide.warnings)


def test_the_spacing_of_rows_is_that_of_y(tmp_path, rgb):
    def edit(dataset):
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [2e-3, 1e-3]
        return dataset

    with open_slide(SlideRef(write_dicom_slide(tmp_path, rgb, MPP, levels=(1,), edit=edit))) as slide:
        assert (slide.mpp.x, slide.mpp.y) == pytest.approx((1, 2))


def test_a_label_is_never_a_level(tmp_path, rgb):
    def edit(dataset):
        if dataset.TotalPixelMatrixColumns < 700:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
        return dataset

    with open_slide(SlideRef(write_dicom_slide(tmp_path, rgb, MPP, edit=edit))) as slide:
        assert slide.level_count == 1
