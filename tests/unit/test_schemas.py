"""The published schemas: what the package writes follows them, and what does not is refused in one sentence each."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema_rs
import pytest

import virtual_stain.schema_check as module
from tests.fixtures.models import tiny_card, write_tiny_bundle
from tests.fixtures.records import tiny_records
from virtual_stain.config import Config
from virtual_stain.errors import InputError, OutputError, VerificationError
from virtual_stain.exporting.bundle import verify_bundle
from virtual_stain.exporting.card import card_from_json
from virtual_stain.exporting.registry import append, read_registry
from virtual_stain.records.manifest import read_manifest
from virtual_stain.records.verify import verify_records
from virtual_stain.schema_check import NAMES, problems_with, require_schema
from virtual_stain.workflows.output_folder import claim

HOME = Path(module.__file__).parent / "schemas"
DOCS = Path(__file__).parents[2] / "docs" / "schemas.md"
HASH = "a" * 64


def test_every_schema_is_one_and_stands_in_the_docs():
    text = DOCS.read_text(encoding="utf-8")
    assert {p.name for p in HOME.glob("*.json")} == {f"{name}.schema.json" for name in NAMES}
    for name in NAMES:
        jsonschema_rs.meta.validate(json.loads((HOME / f"{name}.schema.json").read_bytes()))
        assert f"{name}.schema.json" in text


def test_what_is_written_follows_them(tmp_path):
    tiny_records(tmp_path / "records", patients=2, tiles_per_pair=2, tile_px=32, window_um=19.2)
    assert problems_with(json.loads((tmp_path / "records" / "manifest.json").read_bytes()), "manifest") == []
    write_tiny_bundle(tmp_path / "tiny")
    bundle = verify_bundle(tmp_path / "tiny")
    assert problems_with(json.loads((bundle.folder / "bundle.json").read_bytes()), "bundle") == []
    assert problems_with(tiny_card().to_json(), "bundle") == []
    append(tmp_path / "registry.jsonl", bundle, None)
    assert problems_with(json.loads((tmp_path / "registry.jsonl").read_bytes()), "registry") == []
    claim(tmp_path / "out", Config(), {"p1": (HASH, "ki67")}, force=False)
    assert problems_with(json.loads((tmp_path / "out" / "work" / "build.json").read_bytes()), "build") == []


def test_a_problem_names_its_place_and_the_list_ends():
    with pytest.raises(VerificationError, match=r"x\.json: expected the values of packed.schema.json") as caught:
        require_schema({"shards": [{"file": "../x"}] * 40, "made_from": {}, "files": {}}, "packed", "x.json")
    assert "shards[0]" in caught.value.message
    assert len(caught.value.message) < 4000


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    tiny_records(folder, patients=2, tiles_per_pair=2, tile_px=32, window_um=19.2)
    return folder


def changed(value, path, new):
    value = copy.deepcopy(value)
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return value


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("tiling", "window_um"), 0),
        (("tiling", "window_um"), -1),
        (("tiling", "window_um"), 38.4),
        (("tiling", "window_um"), 1e308),
        (("tiling", "tile_px"), True),
        (("n_folds",), 10**12),
        (("markers",), []),
        (("markers",), ["../x"]),
        (("markers",), None),
        (("pairs", 0, "shards", 0, "file"), "../x.tfrecord"),
        (("pairs", 0, "registration", "error_p95_um"), -1),
        (("pairs", 0, "n_records"), 2**62),
        (("pairs",), {}),
        (("schema_version",), "1"),
    ],
)
def test_a_manifest_of_impossible_values_is_refused(records, tmp_path, path, new):
    for source in records.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    value = changed(json.loads((tmp_path / "manifest.json").read_bytes()), path, new)
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(InputError):
        verify_records(tmp_path)


def test_tiles_that_lie_on_no_common_grid_are_told(records, tmp_path):
    """A doubled stride contradicts the places of the tiles."""
    for source in records.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    value = json.loads((tmp_path / "manifest.json").read_bytes())
    assert verify_records(tmp_path).records
    value["tiling"]["stride_um"] /= 2
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(VerificationError, match="by the pair's other tiles"):
        verify_records(tmp_path)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', "[" * 100_000, '{"a": NaN}', '{"a": 1e999}', f'{{"a": {"9" * 5000}}}', '"\\ud800"', "null"],
    ids=["twice", "deep", "nan", "overflow", "digits", "surrogate", "null"],
)
def test_json_that_means_two_things_is_refused_everywhere(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError):
        read_manifest(tmp_path)
    (tmp_path / "registry.jsonl").write_text(text + "\n")
    with pytest.raises(InputError):
        read_registry(tmp_path / "registry.jsonl")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "build.json").write_text(text)
    with pytest.raises(OutputError, match="state of an earlier run"):
        claim(tmp_path, Config(), {}, force=False)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("tile_mpp",), 0.6),
        (("stride_um",), 0),
        (("version",), True),
        (("version",), 1.5),
        (("markers",), ["ki67", "ki67"]),
        (("thresholds", "min_tumour_cells"), "50"),
        (("window_um",), "38.4"),
        (("training_slides",), "abc"),
        (("software",), {"a": 1}),
    ],
)
def test_a_card_of_other_types_is_refused_and_not_converted(path, new):
    with pytest.raises(VerificationError):
        card_from_json(changed(tiny_card().to_json(), path, new), "bundle.json")
