"""`vstain evaluate` over several runs: names, one table, the failed first, and what is done is kept."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.fixtures.training import tiny_run
from virtual_stain.cli.main import _run
from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError
from virtual_stain.workflows import evaluate_many as module
from virtual_stain.workflows.evaluate_many import EvaluateManyOptions, planned


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "evaluations.csv").open(encoding="utf-8", newline="") as stream:
        return {r["evaluation"]: r for r in csv.DictReader(stream)}


def test_several_runs_give_one_table_and_a_failed_one_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = tiny_run(tmp_path)
    first, second, empty = tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c" / "empty"
    shutil.copytree(run, first)
    shutil.copytree(run, second)
    empty.mkdir(parents=True)
    (empty / "run.json").write_text(json.dumps({"command": "fit"}))  # a run without data
    out = tmp_path / "out"
    command = ["evaluate", str(first), str(second), str(empty), "-q"]
    assert _run(command) == ConfigError.exit_code  # no --out
    assert _run([*command, "--out", str(out)]) == 6
    assert "1 of 3 runs could not be evaluated" in capsys.readouterr().err
    table = rows(out)
    assert {n: r["status"] for n, r in table.items()} == {"a-run": "ok", "b-run": "ok", "empty": "failed"}
    written = json.loads((out / "a-run" / "evaluation.json").read_text())["markers"]["ki67"]
    assert float(table["a-run"]["tiles_pearson_pooled"]) == pytest.approx(written["tiles"]["pearson_pooled"], rel=1e-5)
    page = (out / "index.html").read_text()
    assert 0 < page.index(">empty<") < page.index('href="a-run/evaluation.html"')
    assert [o["ok"] for o in json.loads((out / "run.json").read_text())["outcomes"]] == [True, True, False]

    # again: nothing is read twice; another run of a name that is taken is refused, and nothing of the first is lost
    real, read = module.evaluate, []
    monkeypatch.setattr(module, "evaluate", lambda run, *a, **k: read.append(run) or real(run, *a, **k))
    assert _run([*command, "--out", str(out)]) == 6
    assert read == [empty]
    assert "a-run [kept]" in capsys.readouterr().out
    (tmp_path / "other" / "a").mkdir(parents=True)
    shutil.copytree(run, tmp_path / "other" / "a-run")
    assert _run(["evaluate", str(tmp_path / "other" / "a-run"), str(empty), "--out", str(out), "-q"]) == 3
    assert "that of" in capsys.readouterr().err


def test_runs_and_records_are_named_after_both_where_there_are_several(tmp_path: Path) -> None:
    options = EvaluateManyOptions(out=tmp_path / "out", scoring=ScoringSettings())
    runs = [tmp_path / "one", tmp_path / "two"]
    records = [tmp_path / "x" / "records", tmp_path / "y" / "records"]
    names = {name: (work.run, work.records) for name, work in planned(runs, records, options).items()}
    assert names == {
        "one-x-records": (runs[0], records[0]),
        "one-y-records": (runs[0], records[1]),
        "two-x-records": (runs[1], records[0]),
        "two-y-records": (runs[1], records[1]),
    }
    with pytest.raises(ConfigError, match="Received twice"):
        planned([runs[0], runs[0]], [], options)
