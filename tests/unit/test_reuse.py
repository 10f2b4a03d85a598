"""What keeps an output and what makes it again, stage by stage: the code that it is made with, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.models import TinyPredictor, block_slide, coloured_is_tissue
from tests.fixtures.registration import ToyPair, toy_pair, toy_transform
from tests.fixtures.source import CODE, COMMENT, Calls, Change, code_changer
from tests.fixtures.training import tiny_config, tiny_run
from virtual_stain.cli.main import _run
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.errors import OutputError
from virtual_stain.files import write_text
from virtual_stain.phantom import cohort as phantom_cohort
from virtual_stain.progress import Quiet
from virtual_stain.reuse import (
    FILES,
    MADE_FROM,
    MadeFrom,
    digest_of,
    is_finished,
    made_from,
    publish,
    read_record,
    vouched,
    withdraw,
)
from virtual_stain.scoring import score as score_module
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.training.fit import fit
from virtual_stain.workflows import register_files, score_many, score_slides

MADE = MadeFrom({"slide": "ab"}, {"top_n": 30}, "c0de")


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    return code_changer(tmp_path / "sources", monkeypatch)


# ── the answer itself ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_output_is_finished_while_it_was_made_from_the_same_and_its_files_lie_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", "1")
    publish(tmp_path / "run.json", MADE, ("a.csv", "not there.csv"), {"command": "count"})
    record = read_record(tmp_path / "run.json")
    assert record["command"] == "count"
    assert list(record[FILES]) == ["a.csv"]
    assert is_finished(record, MADE, tmp_path, ("a.csv",))
    assert not is_finished(record, MADE, tmp_path, ("a.csv", "b.csv"))
    for other in (
        MadeFrom({"slide": "ac"}, {"top_n": 30}, "c0de"),
        MadeFrom({"slide": "ab"}, {"top_n": 31}, "c0de"),
        MadeFrom({"slide": "ab"}, {"top_n": 30}, "c1de"),
    ):
        assert not is_finished(record, other, tmp_path, ("a.csv",))
        assert other.is_same_request(record[MADE_FROM]) == (other.code_sha256 == "c1de")
    write_text(tmp_path / "a.csv", "2")
    assert not is_finished(record, MADE, tmp_path, ("a.csv",))
    (tmp_path / "a.csv").unlink()
    assert not is_finished(record, MADE, tmp_path, ())
    withdraw(tmp_path / "run.json")
    withdraw(tmp_path / "run.json")
    assert read_record(tmp_path / "run.json") == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', '{"made_from": 1}', '{"made_from": {}, "files": []}'])
def test_a_damaged_record_vouches_for_nothing(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "run.json", text)
    assert not is_finished(read_record(tmp_path / "run.json"), MADE, tmp_path, ())
    assert not MADE.is_same_request(read_record(tmp_path / "run.json").get(MADE_FROM))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _JSON, max_size=4), st.dictionaries(st.text(), _JSON, max_size=4))
def test_what_an_output_was_made_from_comes_back_equal_from_its_record(inputs: dict, settings: dict) -> None:
    made = made_from("virtual_stain.markers", inputs=inputs, settings=settings)
    recorded = json.loads(json.dumps({MADE_FROM: made.to_json(), FILES: {}}))
    assert is_finished(recorded, made, Path(), ())
    assert digest_of(recorded[MADE_FROM]) == made.fingerprint


def test_tuples_and_lists_are_the_same_and_nan_is_refused() -> None:
    one = made_from("virtual_stain.markers", inputs={}, settings={"classes": (1, 2)})
    other = made_from("virtual_stain.markers", inputs={}, settings={"classes": [1, 2]})
    assert one == other
    with pytest.raises(ValueError, match="JSON"):
        made_from("virtual_stain.markers", inputs={"x": float("nan")}, settings={})


def test_a_section_of_a_record_vouches_for_its_own_files(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "<html>")
    assert is_finished(vouched(MADE, tmp_path, ("page.html",)), MADE, tmp_path, ("page.html",))


# ── stage by stage ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ToyPair:
    return toy_pair(tmp_path_factory.mktemp("pair"), toy_transform(63, elastic_px=3.0))


def test_register_works_again_when_geometry_has_changed(
    pair: ToyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    """It had said "registered already" after geometry.py had changed, and saw no change of the page's templates."""
    out = tmp_path / "out"
    words = ["register", str(pair.he), str(pair.ihc), "--out", str(out), "-q"]
    words += ["--mpp-he", str(pair.he_mpp), "--mpp-ihc", str(pair.ihc_mpp), "--aligned-mpp", "16"]
    registered = Calls(monkeypatch, register_files, "register_pair")
    drawn = Calls(monkeypatch, register_files, "draw_page")
    aligned = Calls(monkeypatch, register_files, "write_aligned")

    def run() -> tuple[int, int, int]:
        assert _run(words) == 0
        return registered.since(), drawn.since(), aligned.since()

    assert run() == (1, 1, 1)
    for file, text in (("geometry.py", COMMENT), ("counting/count.py", CODE), ("web/app.py", CODE)):
        change(file, text)
        assert run() == (0, 0, 0)
    change("workflows/templates/registration.html", "\n<!-- -->\n")
    assert run() == (0, 1, 0)
    change("workflows/aligned_slide.py", CODE)
    assert run() == (0, 0, 1)
    change("registration/search.py", CODE)
    assert run() == (1, 1, 1)  # the page shows the code's closeups; an aligned slide is never of another registration
    change("geometry.py", CODE)
    assert run() == (1, 1, 1)


def test_score_works_again_when_value_text_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    """Its key had left out her2.py, markers.py and value_text.py."""
    monkeypatch.setattr(score_module, "find_tissue", coloured_is_tissue)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no-data"))
    slide = block_slide(tmp_path / "a.tiff", [[150, 170]])
    scored = Calls(monkeypatch, score_slides, "score_slide")

    def run() -> int:
        inputs = collect_inputs([slide], None, out=tmp_path / "out", mpp=None)
        options = score_slides.ScoreOptions(model="unused")
        score_many.score_slides(inputs, options, predictor=TinyPredictor())
        return scored.since()

    assert run() == 1
    for file, text in (("value_text.py", COMMENT), ("counting/count.py", CODE), ("training/fit.py", CODE)):
        change(file, text)
        assert run() == 0
    for file in ("value_text.py", "her2.py", "markers.py", "report/templates/report.html"):
        change(file, CODE)
        assert run() == 1
        assert run() == 0


def test_fit_refuses_a_run_that_other_code_has_finished(
    tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, run = tiny_run(tmp_path)
    weights = (run / "best.h5").read_bytes()
    change("model/build.py", COMMENT)
    change("report/report.py", CODE)
    fit(records, run, tiny_config())
    change("model/build.py", CODE)
    with pytest.raises(OutputError, match="other code than this version's") as caught:
        fit(records, run, tiny_config())
    assert "--resume" in str(caught.value)
    said: list[str] = []

    class Heard(Quiet):
        def say(self, text: str) -> None:
            said.append(text)

    fit(records, run, tiny_config(), resume=True, progress=Heard())
    assert "other code" in said[0]
    assert (run / "best.h5").read_bytes() == weights
    fit(records, run, tiny_config(), force=True)
    fit(records, run, tiny_config())  # this code's own now
    assert json.loads((run / "run.json").read_text())["data"].get("earlier_code_sha256") is None


def test_phantoms_are_rendered_again_by_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    settings = PhantomSettings(pairs=1, size_mm=0.5)
    written = Calls(monkeypatch, phantom_cohort, "_write_pair")

    def run() -> int:
        phantom_cohort.write_cohort(tmp_path / "out", settings, jobs=1)
        return written.since()

    assert (run(), run()) == (1, 0)
    change("phantom/render.py", COMMENT)
    change("training/fit.py", CODE)
    assert run() == 0
    change("phantom/render.py", CODE)
    assert (run(), run()) == (1, 0)
