"""`vstain fit --cv`, evaluated over all patients, exported with its interval, read by the scorer's half."""

import json
import shutil

import pytest

from tests.fixtures.records import tiny_records
from tests.fixtures.training import TINY
from virtual_stain.cli.main import _run
from virtual_stain.exporting.bundle import find_bundle, verify_bundle
from virtual_stain.exporting.evaluation import held_out
from virtual_stain.intervals import slide_interval

SETS = [part for override in TINY for part in ("--set", override)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cv é")
    size = {"tile_px": 64, "window_um": 19.2, "tiles_per_pair": 3, "few_cells_every": 0}
    tiny_records(folder / "records", patients=24, n_folds=4, **size)
    command = ["fit", str(folder / "records"), "--out", str(folder / "cv"), "--cv", "3", "-q", *SETS]
    assert _run([*command, "--set", "training.validation_patients=0.2"]) == 0
    assert _run(["evaluate", str(folder / "cv"), "-q"]) == 0
    return folder


def test_every_patient_is_read_once_by_a_network_that_has_not_seen_it(done):
    value = json.loads((done / "cv" / "evaluation.json").read_text())
    assert value["kind"] == "cross-validation"
    figures = value["markers"]["ki67"]
    assert figures["patient_agreement"]["n_patients"] == 24
    runs = [json.loads((done / "cv" / f"fold-{k}" / "run.json").read_text())["data"] for k in range(3)]
    for patient in figures["patients"]:
        sides = runs[patient["fold"]]["patients"]
        assert patient["patient"] in sides["test"]
        assert patient["patient"] not in sides["train"] + sides["validation"]
    assert [len(r["patients"]["validation"]) for r in runs] == [3, 3, 3]
    html = (done / "cv" / "evaluation.html").read_text()
    assert html.count("data:image/png;base64,") == 6
    assert "{{" not in html


def test_the_bundle_carries_the_interval_of_all_folds(done):
    value = json.loads((done / "cv" / "evaluation.json").read_text())
    for name, run in (("m", "cv"), ("m1", "cv/fold-1")):
        assert _run(["export", str(done / run), "--out", str(done / name), "-q"]) == 0
        card = verify_bundle(done / name).card
        assert card.intervals == {"ki67": value["markers"]["ki67"]["interval"]}
        assert card.training["evaluation"]["fold"] is None
        assert card.training_range["n_slides"] >= 10
    text = (find_bundle(done / "m") / "model_card.md").read_text()
    assert "| test | 8 | 24 |" in text
    assert "| ki67 | patients | 24 | " in text, text
    assert "every patient, read by the network of the fold that has not seen it" in text
    assert "Nobody has looked for the same tissue" in text
    assert "Ki67: CV+ from 24 patients" in text or "Ki67: none; the out-of-fold readings do not rise" in text
    interval = value["markers"]["ki67"]["interval"]
    assert interval["n_patients"] == 24
    found = slide_interval(interval, 0.4)
    assert found.available == interval["available"]


def test_another_plan_or_an_unfinished_fold_is_refused(done, capsys):
    records, cv = str(done / "records"), str(done / "cv")
    assert _run(["fit", records, "--out", cv, "--cv", "4", "-q", *SETS]) == 3
    assert "differs in n_folds, folds" in capsys.readouterr().err
    assert _run(["fit", records, "--out", cv, "--cv", "3", "--fold", "1", "-q", *SETS]) == 2
    assert _run(["evaluate", cv, records, "-q"]) == 3
    assert "fold-0" in capsys.readouterr().err
    run_json = done / "cv" / "fold-2" / "run.json"
    text = run_json.read_text()
    try:
        run_json.write_text(text.replace('"status": "finished"', '"status": "interrupted"'))
        assert _run(["evaluate", cv, "-q"]) == 3
        assert "unfinished: fold-2" in capsys.readouterr().err
    finally:
        run_json.write_text(text)


def test_new_weights_are_not_shipped_with_the_figures_of_the_old(done, tmp_path):
    """fit --force begins anew: the evaluation that lies there is of networks that are gone."""
    cv = tmp_path / "cv"
    shutil.copytree(done / "cv", cv)
    best = cv / "fold-2" / "best.h5"
    best.write_bytes(best.read_bytes() + b" ")
    assert held_out(cv / "fold-0").figures is None, "one of the folds has other weights"
    sets = [*SETS, "--set", "training.validation_patients=0.2", "--set", "training.max_steps=4"]
    assert _run(["fit", str(done / "records"), "--out", str(cv), "--cv", "3", "--force", "-q", *sets]) == 0
    assert not (cv / "evaluation.json").exists()
    assert held_out(cv / "fold-0").figures is None
