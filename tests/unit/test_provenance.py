"""Records of runs: no command writes over another's, and other code is other work."""

import json

import pytest

from virtual_stain.cli import main as cli
from virtual_stain.errors import OutputError
from virtual_stain.provenance import RunRecord, kept_if_interrupted, refuse_foreign_run
from virtual_stain.workflows.demo.plan import DEFAULT, FULL
from virtual_stain.workflows.demo.run import _claim


def test_another_commands_run_json_is_never_written_over(tmp_path):
    RunRecord("fit").write(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(OutputError, match="one of `vstain fit`"):
        refuse_foreign_run(tmp_path, "score")
    refuse_foreign_run(tmp_path, "fit")
    refuse_foreign_run(tmp_path / "new", "score")
    assert (tmp_path / "run.json").read_bytes() == before


def test_an_interrupted_run_left_no_run_json(tmp_path):
    (tmp_path / "other").mkdir()
    RunRecord("fit").write(tmp_path / "other")
    before = (tmp_path / "other" / "run.json").read_bytes()
    (tmp_path / "own").mkdir()
    for name in ("own", "other"):
        with pytest.raises(KeyboardInterrupt), kept_if_interrupted(RunRecord("build-records"), tmp_path / name):
            raise KeyboardInterrupt
    own = json.loads((tmp_path / "own" / "run.json").read_bytes())
    assert (own["command"], own["status"]) == ("build-records", "interrupted")
    assert (tmp_path / "other" / "run.json").read_bytes() == before


def test_info_does_not_destroy_a_training_run(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    RunRecord("fit").write(run)
    (tmp_path / "bad.svs").write_text("no slide")
    assert cli._run(["info", str(tmp_path / "bad.svs"), "--out", str(run)]) == 3
    assert json.loads((run / "run.json").read_text())["command"] == "fit"


def test_a_damaged_run_json_is_not_taken_for_ours(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(OutputError, match="unreadable"):
        refuse_foreign_run(tmp_path, "score")


def test_a_demo_of_another_plan_is_refused_before_any_work(tmp_path):
    _claim(tmp_path, DEFAULT, force=False)
    _claim(tmp_path, DEFAULT, force=False)
    with pytest.raises(OutputError, match="holds the demo 'default'"):
        _claim(tmp_path, FULL, force=False)
    (tmp_path / "cohort").mkdir()
    _claim(tmp_path, FULL, force=True)
    assert not (tmp_path / "cohort").exists()


def test_the_demo_does_not_swallow_a_configuration(tmp_path, capsys):
    assert cli._run(["demo", "--out", str(tmp_path / "d"), "--set", "training.max_steps=10"]) == 2
    assert "its own configuration" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
