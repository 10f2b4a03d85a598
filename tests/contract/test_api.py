"""The public API: these names and no others, documented with examples that run, and light to import."""

from __future__ import annotations

import doctest
import gc
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import virtual_stain as vs
from tests.fixtures.models import write_tiny_bundle
from tests.fixtures.phantoms import tiny_pair
from tests.fixtures.training import TINY, tiny_records, tiny_run
from tools.sentence_length import sentences
from virtual_stain.cli.main import _run

FUNCTIONS = (
    "build_records", "count", "evaluate", "export", "find_tissue", "fit", "load_model", "load_registration",
    "load_report", "load_run", "make_phantom", "open_records", "open_slide", "register", "score",
)  # fmt: skip
RESULTS = ("Count", "Model", "PairRegistration", "Phantoms", "Records", "Report", "Run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples name: he.tiff, ihc.tiff, pairs.csv, records, run, model and tiny.toml."""
    place = tmp_path_factory.mktemp("api")
    pair = tiny_pair(place / "phantom", size_mm=0.8, mode="serial")
    for side in ("he", "ihc"):
        (place / f"{side}.tiff").symlink_to(getattr(pair, side))
    (place / "pairs.csv").write_text("pair,patient,marker,he,ihc\np1,A,ki67,he.tiff,ihc.tiff\n")
    changes = ("model.crop_px=64",)
    tiny_run(place, *changes, tile_px=64, window_um=19.2)
    sections: dict[str, dict[str, str]] = {}
    for text in (*TINY, *changes):
        (section, _, key), value = text.partition("=")[0].partition("."), text.partition("=")[2]
        plain = value.replace(".", "").replace("e-", "").isdigit()
        sections.setdefault(section, {})[key] = value if plain else repr(value)
    lines = [f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in rows.items()) for name, rows in sections.items()]
    (place / "tiny.toml").write_text("\n".join(lines))
    write_tiny_bundle(place / "model")
    return place


def test_the_exported_names_are_exactly_these():
    assert sorted(vs.__all__) == sorted((*FUNCTIONS, *RESULTS, "VirtualStainError", "__version__"))
    assert dir(vs) == vs.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="scoer"):
        vs.scoer  # noqa: B018


@pytest.mark.parametrize("name", [*FUNCTIONS, *RESULTS])
def test_every_public_name_is_what_it_says_after_everything_was_imported(name):
    """Packages of the same name as a function would take its place once they are imported."""
    thing = getattr(vs, name)
    assert callable(thing)
    assert thing.__module__.startswith("virtual_stain.api.")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_documents_its_parameters_what_it_raises_and_an_example(name):
    function = getattr(vs, name)
    text = inspect.getdoc(function) or ""
    assert "Raises\n------" in text
    assert ">>> import virtual_stain as vs" in text
    documented = text.partition("Parameters\n")[2]
    if "Parameters\n" in text:
        for parameter in inspect.signature(function).parameters:
            assert parameter in documented, f"{name}: {parameter} is not documented"


def _documented() -> dict[str, str]:
    """Public name, or name of a class and of its public member → docstring."""
    found = {}
    for name in (*FUNCTIONS, *RESULTS):
        thing = getattr(vs, name)
        found[name] = inspect.getdoc(thing) or ""
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                found[f"{name}.{member}"] = inspect.getdoc(value) or ""
    return found


def _prose(text: str) -> str:
    """A docstring without examples, headings and the names of parameters; each description is a paragraph."""
    lines = re.sub(r"^.+\n-+$", "", text.partition("Examples\n---")[0], flags=re.M).splitlines()
    kept = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        is_term = following.startswith("    ") and not line.startswith("    ")
        kept.append("" if is_term or ">>>" in line else line.removeprefix("    "))
    return "\n".join(kept)


def test_every_public_name_is_documented_in_sentences_of_at_most_20_words():
    documented = _documented()
    assert [name for name, text in documented.items() if not text] == []
    long = {
        f"{name}: {sentence.words} words: {sentence.text}"
        for name, text in documented.items()
        for sentence in sentences(_prose(text))
        if sentence.words > 20
    }
    assert long == set()


def test_prose_of_a_docstring_is_found():
    text = "Does it.\n\nParameters\n----------\nslide\n    The slide. It is\n    read.\n\nExamples\n--------\n>>> a\nb"
    assert [s.text for s in sentences(_prose(text))] == ["Does it.", "The slide.", "It is read."]


@pytest.mark.parametrize("name", [*FUNCTIONS, "Records.dataset"])
def test_the_example_of_every_function_runs(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    thing: object = vs
    for part in name.split("."):
        thing = getattr(thing, part)
    [example] = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert example.examples
    assert result.failed == 0, "".join(said)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_pixel_size_is_ever_assumed(name):
    for parameter in inspect.signature(getattr(vs, name)).parameters.values():
        if "mpp" in parameter.name:
            assert parameter.default is None


def test_importing_and_asking_for_names_loads_neither_tensorflow_nor_pandas():
    code = (
        "import sys, time; import virtual_stain as vs; "
        "[getattr(vs, n) for n in ('open_slide', 'count', 'register', 'build_records', 'fit', 'load_model', 'score')]; "
        "print([m for m in ('tensorflow', 'keras', 'pandas', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_alone_loads_nothing():
    code = "import sys; import virtual_stain; print(sorted(m for m in sys.modules if m in ('numpy', 'cv2', 'click')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_results_plot_themselves_and_give_tables_and_geojson(folder, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    found = vs.count(folder / "ihc.tiff", "ki67")
    frame = found.to_frame()
    counted = frame["class"].isin(["positive", "negative"])
    assert counted.sum() == found.summary["all_nuclei"]["nuclei"]
    assert found.to_geojson()["type"] == "FeatureCollection"
    assert found.plot().images
    report = vs.score(folder / "he.tiff", folder / "model")
    assert report.to_geojson()["type"] == "FeatureCollection"
    assert report.plot().images
    assert report.html.is_file()


# the time that something took, and TensorFlow's graph: it numbers its functions, in one process ever higher
_NOT_EQUAL = frozenset({"run.json", "saved_model.pb", "fingerprint.pb", "bundle.json"})


def _contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but those of `_NOT_EQUAL`; a report without its times and the hashes of its files."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.endswith(".report.json"):
            value = json.loads(path.read_text())
            files[name] = json.dumps({k: v for k, v in value.items() if k not in {"timing", "outputs"}}).encode()
        elif path.name not in _NOT_EQUAL and not name.endswith(".report.html"):
            files[name] = path.read_bytes()
    return files


@pytest.mark.parametrize(
    ("command", "function", "written"),
    [
        (
            ["count", "ihc.tiff", "--marker", "ki67", "--out"],
            lambda out: vs.count("ihc.tiff", "ki67", out=out),
            {"summary.json", "cells.csv", "cells.geojson", "count.html", "overlay.jpg", "stain.png"},
        ),
        pytest.param(
            ["register", "he.tiff", "ihc.tiff", "--out"],
            lambda out: vs.register("he.tiff", "ihc.tiff", out=out),
            {"registration.json", "registration.h5", "registration.html", "overlay.jpg"},
            marks=pytest.mark.slow,
        ),
        (
            ["score", "he.tiff", "--model", "model", "--out"],
            lambda out: vs.score("he.tiff", "model", out=out),
            {"he.report.json", "he.tiles.csv", "he.geojson", "he.heatmap.png"},
        ),
        (
            ["phantom", "--pairs", "1", "--size-mm", "0.4", "--out"],
            lambda out: vs.make_phantom(out, size_mm=0.4),
            {"pairs.csv", "slides/p001_he.tiff", "slides/p001_ihc.tiff"},
        ),
        pytest.param(
            ["build-records", "pairs.csv", "--accept-unreviewed", "--out"],
            lambda out: vs.build_records("pairs.csv", out, accept_unreviewed=True),
            {"manifest.json", "summary.html"},
            marks=pytest.mark.slow,
        ),
        (
            ["evaluate", "run", "--out"],
            lambda out: vs.evaluate("run", out=out),
            {"evaluation.json", "evaluation.html"},
        ),
        pytest.param(
            ["export", "run", "--name", "tiny", "--out"],
            lambda out: vs.export("run", out, name="tiny"),
            {"1/model_card.md", "1/variables/variables.data-00000-of-00001", "serving/models.config"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_and_its_function_write_the_same_bytes(command, function, written, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert _run([*command, str(tmp_path / "command" / "same"), "-q"]) == 0
    function(tmp_path / "function" / "same")
    by_command, by_function = (_contents(tmp_path / name / "same") for name in ("command", "function"))
    assert written <= set(by_command)
    assert set(by_command) == set(by_function)
    assert [name for name in by_command if by_command[name] != by_function[name]] == []


def test_progress_is_told_to_a_function(folder):
    told: list[tuple[str, int, int]] = []
    vs.count(folder / "ihc.tiff", "ki67", progress=lambda *facts: told.append(facts))
    assert told
    assert told[0][1] == 0
    assert told[-1][1] == told[-1][2]


def test_a_temporary_folder_is_gone_with_its_result(folder):
    found = vs.count(folder / "ihc.tiff", "ki67")
    place = found.folder
    assert (place / "cells.csv").is_file()
    del found
    gc.collect()  # the frames of an exception that was handled below may still hold it
    assert not place.exists()


@pytest.mark.parametrize("mpp", [0, -0.5, float("nan"), "0,5", (0.5,)])
def test_what_is_no_pixel_size_is_refused(folder, mpp):
    with pytest.raises(vs.VirtualStainError, match="mpp"):
        vs.open_slide(folder / "he.tiff", mpp=mpp)


def test_a_model_refuses_tiles_of_another_shape(folder):
    with vs.load_model(folder / "model") as model, pytest.raises(vs.VirtualStainError, match=str(model.tile_px)):
        model.predict(np.zeros((1, 32, 32, 3), np.uint8))


def test_a_keras_model_of_ones_own_trains_on_the_crops(folder):
    import keras

    records = vs.open_records(folder / "records")
    assert len(repr(records)) < 300  # print(records) was the whole manifest
    model = keras.Sequential(
        [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    history = model.fit(records.dataset(crop_px=64, batch_size=4, min_cells=1), steps_per_epoch=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_crops_carry_the_ratio_of_their_own_cells(folder):
    records = vs.open_records(folder / "records")
    crop, ratio, weight = next(iter(records.dataset(crop_px=64, batch_size=8, min_cells=1, augment=True, seed=3)))
    assert crop.dtype == "uint8"
    assert ((ratio.numpy() >= 0) & (ratio.numpy() <= 1)).all()
    assert (weight.numpy() >= 0).all()
    again, _, _ = next(iter(records.dataset(crop_px=64, batch_size=8, min_cells=1, augment=True, seed=3)))
    assert np.array_equal(crop, again)


def test_folds_that_are_not_there_are_refused(folder):
    with pytest.raises(vs.VirtualStainError, match="folds"):
        vs.open_records(folder / "records").dataset(folds=[99])


def test_records_of_counts_are_no_ratios(tmp_path):
    tiny_records(tmp_path / "counts", tile_px=64, window_um=19.2, value_definition="positive_count")
    with pytest.raises(vs.VirtualStainError, match="positive_count"):
        vs.open_records(tmp_path / "counts").dataset(crop_px=64)


def test_a_config_object_and_settings_together_are_refused(folder):
    from virtual_stain.config import Config

    with pytest.raises(vs.VirtualStainError, match="settings"):
        vs.find_tissue(folder / "he.tiff", config=Config(), settings={"tissue.min_area_um2": 1e5})


def test_an_unknown_option_of_a_phantom_is_refused(tmp_path):
    with pytest.raises(vs.VirtualStainError, match="sise_mm"):
        vs.make_phantom(tmp_path, sise_mm=1)
    assert list(tmp_path.iterdir()) == []


def test_pixels_are_counted_as_their_file_is_and_refused_without_a_pixel_size(folder):
    with vs.open_slide(folder / "ihc.tiff") as slide:
        pixels = slide.read_level(0, 400, 400, (800, 800))
    with pytest.raises(vs.VirtualStainError, match="pixel size"):
        vs.count(pixels, "ki67")
    with pytest.raises(vs.VirtualStainError, match="uint8"):
        vs.count(pixels / 255, "ki67", mpp=0.46)
    Image.fromarray(pixels).save(folder / "pixels.png")
    by_file = vs.count(folder / "pixels.png", "ki67", mpp=0.46)
    by_pixels = vs.count(pixels, "ki67", mpp=0.46)
    assert (by_pixels.positive, by_pixels.negative) == (by_file.positive, by_file.negative)
