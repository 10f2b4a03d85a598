"""Direct and indirect beside each other: the same tiles, a paired interval over patients, an alarm."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from virtual_stain.errors import InputError
from virtual_stain.evaluation.beside import COMPARISON, compare_paths, comparison_lines
from virtual_stain.files import sha256_file

COLUMNS = ("pair", "patient_id", "marker", "col", "row", "label_weight", "label_positive", "label_tumour_cells",
           "label_ratio", "ratio")  # fmt: skip


def evaluated(folder: Path, path: str, noise: float, *, patients: int = 8, fold: int = 0, shift: float = 0.0) -> Path:
    """A run's folder as `vstain evaluate` leaves it: 20 tiles of each patient, readings with `noise`."""
    folder.mkdir()
    (folder / "best.h5").write_bytes(path.encode())
    rng, more = np.random.default_rng(1), np.random.default_rng(2 if path == "direct" else 3)
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for patient in range(patients):
            for tile in range(20):
                positive = int(rng.integers(5, 95))
                read = np.clip(positive / 100 + shift + noise * more.normal(), 0, 1)
                writer.writerow([f"p{patient}", f"x{patient}", "ki67", tile, 0, 1, positive, 100, positive / 100, read])
            writer.writerow([f"p{patient}", f"x{patient}", "ki67", 99, 0, 0, 1, 3, 0.33, 0.9])
    runs = [{"name": folder.name, "fold": fold, "best_step": 1, "best_sha256": sha256_file(folder / "best.h5")}]
    facts = {"value_definition": "positive_ratio", "runs": runs}
    (folder / "evaluation.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"config": {"model": {"path": path}}}), encoding="utf-8")
    return folder


def test_the_difference_is_paired_over_patients(tmp_path: Path) -> None:
    direct = evaluated(tmp_path / "direct", "direct", 0.1)
    indirect = evaluated(tmp_path / "indirect", "indirect", 0.2, shift=0.05)
    found = compare_paths(indirect, direct, resamples=200)["markers"]["ki67"]
    assert (found["n_tiles"], found["n_patients"]) == (160, 8)
    assert found["direct"]["r_within"] > found["indirect"]["r_within"] > 0.6
    for name in ("r_within", "mae", "bias"):
        low, high = found["difference_interval"][name]
        assert low < found["difference"][name] < high
        assert found["difference"][name] == pytest.approx(found["indirect"][name] - found["direct"][name])
    assert found["difference_interval"]["r_within"][1] < 0, "worse beyond chance"
    assert found["leakage_alarm"] is None
    assert json.loads((indirect / COMPARISON).read_text(encoding="utf-8"))["direct"]["run"] == "direct"
    assert any("indirect − direct" in line for line in comparison_lines(compare_paths(direct, indirect, resamples=50)))


def test_an_indirect_path_that_is_much_better_is_an_alarm(tmp_path: Path) -> None:
    direct = evaluated(tmp_path / "direct", "direct", 0.25)
    indirect = evaluated(tmp_path / "indirect", "indirect", 0.05)
    value = compare_paths(indirect, direct, resamples=50)
    assert "leaks" in value["markers"]["ki67"]["leakage_alarm"]
    assert any("LEAKAGE ALARM" in line for line in comparison_lines(value))


def test_of_few_patients_there_is_no_interval(tmp_path: Path) -> None:
    direct = evaluated(tmp_path / "direct", "direct", 0.1, patients=2)
    value = compare_paths(evaluated(tmp_path / "indirect", "indirect", 0.1, patients=2), direct)
    assert value["markers"]["ki67"]["difference_interval"]["r_within"] is None
    assert any("no interval below 5 patients" in line for line in comparison_lines(value))


def test_what_is_not_the_same_is_not_compared(tmp_path: Path) -> None:
    direct = evaluated(tmp_path / "direct", "direct", 0.1)
    with pytest.raises(InputError, match="the same tiles, labels and folds"):
        compare_paths(direct, evaluated(tmp_path / "fewer", "indirect", 0.1, patients=7))
    with pytest.raises(InputError, match="the same tiles, labels and folds"):
        compare_paths(direct, evaluated(tmp_path / "fold", "indirect", 0.1, fold=1))
    with pytest.raises(InputError, match="of the other path"):
        compare_paths(direct, evaluated(tmp_path / "second", "direct", 0.1))
    changed = evaluated(tmp_path / "changed", "indirect", 0.1)
    (changed / "best.h5").write_bytes(b"trained on")
    with pytest.raises(InputError, match="of other weights"):
        compare_paths(direct, changed)
    (direct / "predictions.csv").unlink()
    with pytest.raises(InputError, match="an evaluated run"):
        compare_paths(direct, changed)
