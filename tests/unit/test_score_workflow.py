"""Slides in, files out: outcomes, resuming, and nothing half-done taken for done."""

import json

import pytest

from tests.fixtures.models import TinyPredictor, block_slide, coloured_is_tissue, tiny_card
from virtual_stain.config import ScoringSettings
from virtual_stain.errors import BatchError, InputError, ModelError, NoTissueError, OutputError, SlideError
from virtual_stain.files import folder_lock, sha256_file
from virtual_stain.patients import PatientKey, keyed_slides
from virtual_stain.scoring import score as score_module
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.workflows import score_slides as module
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions
from virtual_stain.workflows.score_words import summary

KINDS = ("report.json", "tiles.csv", "heatmap.png", "geojson", "report.html")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path, request):
    """No key of the user; a known tissue mask; and no drawing, except where the pictures are what is tested."""
    monkeypatch.setattr(score_module, "find_tissue", coloured_is_tissue)
    if "pictures" not in request.node.name:
        monkeypatch.setattr(module, "heatmap_png", lambda report, overview: b"png")
        monkeypatch.setattr(module, "report_html", lambda report, picture, read: "<html>")
    monkeypatch.delenv("VSTAIN_PATIENT_KEY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no-data"))


def options(**changes):
    return ScoreOptions(**{"model": "unused", **changes})


def score(paths, out, predictor=None, mpp=None, **changes):
    inputs = collect_inputs(paths, None, out=out, mpp=mpp)
    return score_slides(inputs, options(**changes), predictor=predictor or TinyPredictor())


def test_all_files_and_pictures_of_a_slide_are_written_and_listed_with_their_hashes(tmp_path):
    out = tmp_path / "résultats 結果"
    (scored,) = score([block_slide(tmp_path / "schnitt ü 切片.tiff", [[150, 170, None]])], out)
    stem = "schnitt ü 切片"
    assert {p.name for p in out.iterdir()} == {f"{stem}.{k}" for k in KINDS} | {"run.json", ".lock"}
    report = json.loads((out / f"{stem}.report.json").read_text())
    assert report == scored.report
    for name, entry in report["outputs"].items():
        assert entry["sha256"] == sha256_file(out / name)
        assert entry["bytes"] == (out / name).stat().st_size
    assert stem in summary(scored)
    assert "62.7 %" in summary(scored)
    run = json.loads((out / "run.json").read_text())
    assert run["outcomes"] == [{"name": stem, "ok": True, "reason": ""}]
    assert run["counts"]["scored"] == report["tiles"]["scored"]


def test_a_current_report_is_left_alone_and_force_redoes_it(tmp_path):
    path, out, predictor = block_slide(tmp_path / "a.tiff", [[150, 170]]), tmp_path / "o", TinyPredictor()
    score([path], out, predictor)
    calls = len(predictor.batches)
    assert calls
    (again,) = score([path], out, predictor, scoring=ScoringSettings(batch_size=1), jobs=2)
    assert len(predictor.batches) == calls
    assert again.outcome.reason == "already scored"
    assert again.report["readings"]["ki67"]["n_tiles"] == 2
    score([path], out, predictor, force=True)
    assert len(predictor.batches) > calls


@pytest.mark.parametrize("what", ["slide", "model", "top_n", "mpp", "origin", "file", "missing", "damaged", "foreign"])
def test_whatever_the_result_depends_on_makes_it_stale(tmp_path, what):
    path, out, first = block_slide(tmp_path / "a.tiff", [[150, 170]]), tmp_path / "o", TinyPredictor()
    score([path], out, first)
    second, changes = TinyPredictor(), {}
    if what == "slide":
        block_slide(path, [[150, 180]])
    elif what == "model":
        second.sha256 = "1" * 64
    elif what == "top_n":
        changes["scoring"] = ScoringSettings(top_n=3)
    elif what == "mpp":
        changes["mpp"] = (0.31, 0.31)
    elif what == "origin":
        changes["geojson_origin"] = "slide"
    elif what == "file":
        (out / "a.tiles.csv").write_text("edited")
    elif what == "missing":
        (out / "a.heatmap.png").unlink()
    elif what == "damaged":
        (out / "a.report.json").write_text('{"made_from": ')
    else:
        (out / "a.report.json").write_text("[1, 2]")
    (scored,) = score([path], out, second, **changes)
    assert second.batches, "scored again"
    assert scored.outcome.reason == ""


def test_a_slide_with_unread_tiles_is_tried_again(tmp_path):
    path, out, predictor = block_slide(tmp_path / "a.tiff", [[150, 170]]), tmp_path / "o", TinyPredictor()
    score([path], out, predictor)
    report = out / "a.report.json"
    value = json.loads(report.read_text())
    value["tiles"]["failed"] = 1  # as after a network drop
    report.write_text(json.dumps(value))
    calls = len(predictor.batches)
    (again,) = score([path], out, predictor)
    assert len(predictor.batches) > calls
    assert again.report["tiles"]["failed"] == 0


def test_one_bad_slide_does_not_stop_the_others_and_does_not_disappear(tmp_path):
    good = [block_slide(tmp_path / f"{n}.tiff", [[150, 170]]) for n in "ac"]
    empty = block_slide(tmp_path / "empty.tiff", [[None, None]])
    torn = tmp_path / "torn.tiff"
    torn.write_bytes(good[0].read_bytes()[:300])
    seen = []
    inputs = collect_inputs([good[0], torn, empty, tmp_path / "none.svs", good[1]], None, out=tmp_path / "o", mpp=None)
    with pytest.raises(BatchError, match="3 of 5 slides") as error:
        score_slides(inputs, options(), predictor=TinyPredictor(), done=seen.append)
    for name in ("torn", "empty", "none"):
        assert f"- {name}: " in str(error.value)
    assert error.value.exit_code == 6
    assert [s.outcome.ok for s in seen] == [True, False, False, False, True]
    outcomes = json.loads((tmp_path / "o" / "run.json").read_text())["outcomes"]
    assert [o["name"] for o in outcomes if not o["ok"]] == ["torn", "empty", "none"]
    assert (tmp_path / "o" / "c.report.json").is_file()
    assert not list((tmp_path / "o").glob("torn*"))


@pytest.mark.parametrize(("name", "error"), [("none.svs", SlideError), ("empty.tiff", NoTissueError)])
def test_the_only_slides_own_error_is_told(tmp_path, name, error):
    if name == "empty.tiff":
        block_slide(tmp_path / name, [[None, None]])
    with pytest.raises(error) as caught:
        score([tmp_path / name], tmp_path / "o")
    assert caught.value.exit_code == 3


def test_a_bug_on_one_slide_costs_that_slide_only(tmp_path, monkeypatch):
    paths = [block_slide(tmp_path / f"{n}.tiff", [[150]]) for n in "ab"]
    real = module.score_slide

    def broken(slide, *args, **kwargs):
        if slide.name == "a":
            raise ZeroDivisionError("oops")
        return real(slide, *args, **kwargs)

    monkeypatch.setattr(module, "score_slide", broken)
    with pytest.raises(BatchError, match="a bug: ZeroDivisionError: oops"):
        score(paths, tmp_path / "o")
    assert (tmp_path / "o" / "b.report.json").is_file()


def test_a_broken_model_ends_the_run_but_what_was_done_stays(tmp_path):
    class Breaks(TinyPredictor):
        def predict(self, tiles):
            if self.batches:
                raise ModelError("the network failed")
            return super().predict(tiles)

    paths = [block_slide(tmp_path / f"{n}.tiff", [[150]]) for n in "abc"]
    with pytest.raises(ModelError):
        score(paths, tmp_path / "o", Breaks())
    assert (tmp_path / "o" / "a.report.json").is_file()
    assert [o["name"] for o in json.loads((tmp_path / "o" / "run.json").read_text())["outcomes"]] == ["a"]


def test_a_failed_repetition_leaves_no_report_that_vouches_for_new_files(tmp_path, monkeypatch):
    path, out = block_slide(tmp_path / "a.tiff", [[150]]), tmp_path / "o"
    score([path], out)
    real = module.write_bytes

    def full(target, data):
        if target.name.endswith(".geojson"):
            raise OutputError("the disk is full")
        real(target, data)

    monkeypatch.setattr(module, "write_bytes", full)
    with pytest.raises(OutputError):
        score([path], out, force=True)
    assert not (out / "a.report.json").exists()


def test_an_output_that_cannot_be_written_is_found_before_the_model_is_loaded(tmp_path):
    (tmp_path / "o").write_text("a file in the way")
    path = block_slide(tmp_path / "a.tiff", [[150]])
    inputs = collect_inputs([path], None, out=tmp_path / "o", mpp=None)
    with pytest.raises(OutputError, match="in the way"):
        score_slides(inputs, options(model=str(tmp_path / "no-model")))


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    path = block_slide(tmp_path / "a.tiff", [[150]])
    with folder_lock(tmp_path / "o"), pytest.raises(OutputError, match="another vstain run"):
        score([path], tmp_path / "o")


def test_a_server_that_is_not_there_is_a_sentence(tmp_path):
    path = block_slide(tmp_path / "a.tiff", [[150]])
    inputs = collect_inputs([path], None, out=tmp_path / "o", mpp=None)
    for model in ("grpc://127.0.0.1:1/ki67", "http://127.0.0.1:1/v1/models/ki67"):
        with pytest.raises(ModelError, match="no answer"):
            score_slides(inputs, options(model=model, scoring=ScoringSettings(server_patience_s=0.1)))


@pytest.mark.parametrize("key_there", [True, False])
def test_a_training_slide_is_recognised_where_the_key_is_and_never_guessed(tmp_path, monkeypatch, key_there):
    path, key = block_slide(tmp_path / "a.tiff", [[150]]), PatientKey(b"0123456789abcdef0123")
    slides = keyed_slides([sha256_file(path)], key.fingerprint, key)
    card = tiny_card(patient_key_fingerprint=key.fingerprint, training_slides=slides)
    if key_there:
        (tmp_path / "key").write_bytes(key.secret)
        monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(tmp_path / "key"))
    (scored,) = score([path], tmp_path / "o", TinyPredictor(card))
    codes = {w["code"] for w in scored.report["warnings"]}
    flags = scored.report["readings"]["ki67"]["flags"]
    assert ("slide_seen_in_training" in codes) == ("slide_seen_in_training" in flags) == key_there
    assert ("training_slides_unknown" in codes) != key_there
    assert not (tmp_path / "no-data").exists(), "a scorer creates no key"


def test_a_second_slide_of_the_same_name_replaced_the_report_of_the_first(tmp_path):
    """Two hospitals, each with a slide 001."""
    first, second = tmp_path / "A" / "001.tiff", tmp_path / "B" / "001.tiff"
    for path, red in ((first, 150), (second, 200)):
        path.parent.mkdir()
        block_slide(path, [[red]])
    out = tmp_path / "out"
    score([first], out)
    before = (out / "001.report.json").read_bytes()
    with pytest.raises(InputError, match=r"report of .*B.001\.tiff.*that of another slide, .*A.001\.tiff"):
        score([second], out)
    assert (out / "001.report.json").read_bytes() == before
    (scored,) = score([second], out, force=True)
    assert scored.report["slide"]["path"] == str(second)
    block_slide(second, [[170]])  # the same place: scanned again
    (scored,) = score([second], out)
    assert scored.outcome.ok
