"""build-records on phantom slides: the whole way, killed in the middle, and everything that it has to refuse."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial import cKDTree

from tests.fixtures.phantoms import TinyPair, tiny_cohort
from tests.fixtures.source import CODE, COMMENT, Calls, code_changer
from virtual_stain.config import Config, CountingSettings, LabelSettings
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.errors import (
    BatchError,
    OutputError,
    RejectedError,
    ReviewPendingError,
    SlideError,
    VerificationError,
)
from virtual_stain.files import folder_lock
from virtual_stain.labels.store import TileStore
from virtual_stain.markers import ValueDefinition
from virtual_stain.records import write as records_write
from virtual_stain.records.ihc_shards import iterate_ihc_shard, stage_ihc_shards
from virtual_stain.records.manifest import read_manifest, shard_paths, write_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.verify import verify_records
from virtual_stain.registration.result import Verdict
from virtual_stain.registration.store import read_registration, write_registration
from virtual_stain.reuse import file_hashes
from virtual_stain.workflows import pair_registration, pair_stain, part_job
from virtual_stain.workflows.build_records import BuildOptions, build_records

NAME = "Zyxwvut Mustermann"  # must never leave the table
ACCEPT = BuildOptions(accept_unreviewed=True)  # one process: with the work done, a pool costs more than it saves


@dataclass(frozen=True)
class Built:
    """Two phantom pairs and an undisturbed run over them."""

    cohort: list[TinyPair]
    pairs_csv: Path
    out: Path
    key: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("build")
    cohort = tiny_cohort(root / "cohort", pairs=2, jobs=2, size_mm=0.75)
    pairs_csv = _table(root, cohort)
    key = root / "patient.key"
    key.write_text("0123456789abcdef0123456789abcdef")
    key.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VSTAIN_PATIENT_KEY", str(key))
        build_records(pairs_csv, root / "records", Config(), BuildOptions(accept_unreviewed=True, jobs=2))
    return Built(cohort, pairs_csv, root / "records", key)


@pytest.fixture(autouse=True)
def _patient_key(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(built.key))


def _table(folder: Path, cohort: list[TinyPair], more: str = "", name: str = "pairs.csv") -> Path:
    rows = [f"{p.pair},{NAME} {i},ki67,{p.he},{p.ihc},{i}" for i, p in enumerate(cohort)]
    path = folder / name
    path.write_text("\n".join(["pair,patient,marker,he,ihc,fold", *rows, more]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Path:
    """A folder with all the work done, to go on from."""
    shutil.copytree(built.out, tmp_path / "records")
    return tmp_path / "records"


def _outputs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in [*folder.glob("*.tfrecord"), folder / "manifest.json"]}


def test_another_value_definition_packs_the_same_tiles_anew(built: Built, copy: Path) -> None:
    tiles = {p: p.stat().st_mtime_ns for p in copy.glob("work/*/tiles.h5")}
    counting = CountingSettings(value_definition=ValueDefinition.NEGATIVE_COUNT)
    build_records(built.pairs_csv, copy, Config(counting=counting), ACCEPT)
    assert {p: p.stat().st_mtime_ns for p in copy.glob("work/*/tiles.h5")} == tiles, "nothing was counted again"
    verified = verify_records(copy).manifest
    assert verified.value_definition == "negative_count"
    records = [r for path in shard_paths(copy, verified.pairs) for r in iterate_shard(path)]
    assert {r["label/value_definition"] for r in records} == {"negative_count"}
    assert [r["label/id"] for r in records] == [
        r["label/id"] for path in shard_paths(built.out, verified.pairs) for r in iterate_shard(path)
    ], "a verdict on the cells stays one"


def test_the_ihc_side_lies_parallel_and_the_he_shards_are_the_same_bytes(built: Built, copy: Path) -> None:
    he_side = _outputs(built.out)
    tiles = {p: p.stat().st_mtime_ns for p in copy.glob("work/*/tiles.h5")}
    keeping = Config(labels=LabelSettings(keep_ihc=True, shard_mb=0.4))
    manifest = build_records(built.pairs_csv, copy, keeping, ACCEPT).manifest
    assert {p: p.stat().st_mtime_ns for p in copy.glob("work/*/tiles.h5")} == tiles, "nothing was counted again"
    assert len(manifest.pairs[0].shards) > 1
    assert verify_records(copy).manifest == manifest == read_manifest(copy)
    for pair in manifest.pairs:
        assert pair.ihc is not None
        assert [s.records for s in pair.ihc.shards] == [s.records for s in pair.shards]
        with TileStore(copy / "work" / pair.pair / "tiles.h5") as store:
            by_label = {tile.label_id: tile for tile in store.tiles()}
        for he, ihc in zip(pair.shards, pair.ihc.shards, strict=True):
            records = list(iterate_shard(copy / he.file))
            sides = list(iterate_ihc_shard(copy / ihc.file))
            assert [side.label_id for side in sides] == [record["label/id"] for record in records]
            assert all(side.jpeg == by_label[side.label_id].ihc_jpeg for side in sides)
        assert pair.ihc.stain == SlideStain.from_dict(
            json.loads((copy / "work" / pair.pair / "stain.json").read_bytes())["stain"]
        )
    again = _outputs(copy)
    build_records(built.pairs_csv, copy, keeping, ACCEPT)
    assert _outputs(copy) == again

    build_records(built.pairs_csv, copy, Config(labels=LabelSettings(keep_ihc=True)), ACCEPT)
    now = _outputs(copy)
    assert {name: now[name] for name in he_side if name != "manifest.json"} == {
        name: data for name, data in he_side.items() if name != "manifest.json"
    }
    build_records(built.pairs_csv, copy, Config(), ACCEPT)
    assert _outputs(copy) == he_side, "without the IHC side the folder is what it was"


def test_an_ihc_tile_of_another_record_is_an_error(built: Built, copy: Path) -> None:
    manifest = build_records(built.pairs_csv, copy, Config(labels=LabelSettings(keep_ihc=True)), ACCEPT).manifest
    pair = manifest.pairs[0]
    assert pair.ihc is not None
    tiles = list(iterate_ihc_shard(copy / pair.ihc.shards[0].file))
    staged = stage_ihc_shards(copy, pair.pair, [tiles[1], tiles[0], *tiles[2:]], pair.shards)
    staged.commit()
    swapped = dataclasses.replace(pair, ihc=dataclasses.replace(pair.ihc, shards=staged.entries))
    write_manifest(copy, dataclasses.replace(manifest, pairs=(swapped, *manifest.pairs[1:])))
    with pytest.raises(VerificationError, match="record 0 is not the IHC side"):
        verify_records(copy)
    with pytest.raises(VerificationError, match=r"Expected \d+ examples. Received: 2"):
        stage_ihc_shards(copy, pair.pair, tiles[:2], pair.shards)
    assert not list(copy.glob("*.tmp"))
    (copy / pair.ihc.shards[0].file).unlink()
    with pytest.raises(VerificationError, match="the file is missing"):
        verify_records(copy)


def test_the_folder_verifies_and_says_what_is_in_it(built: Built) -> None:
    manifest = verify_records(built.out).manifest
    assert [p.pair for p in manifest.pairs] == [p.pair for p in built.cohort]
    assert [p.fold for p in manifest.pairs] == [0, 1]
    assert manifest.accept_unreviewed
    assert manifest.excluded == ()
    run = json.loads((built.out / "run.json").read_text())
    assert run["counts"]["records"] == manifest.n_records == run["counts"]["tiles_built"]
    assert [o["ok"] for o in run["outcomes"]] == [True, True]
    html = (built.out / "summary.html").read_text()
    assert "Built with <code>--accept-unreviewed</code>" in html
    assert html.count("data:image/jpeg") == 2


def test_labels_are_those_of_the_truth(built: Built) -> None:
    manifest = read_manifest(built.out)
    errors = []
    for pair, truth in zip(manifest.pairs, built.cohort, strict=True):
        with TileStore(built.out / "work" / pair.pair / "tiles.h5") as store:
            for tile in store.tiles():
                if tile.weight > 0:
                    true = truth.truth.counts_in(tile.box).ratio
                    assert true is not None
                    assert tile.counts.ratio is not None
                    errors.append(abs(tile.counts.ratio - true))
    assert len(errors) >= 6
    assert np.mean(errors) < 0.06


def test_cells_lie_where_they_were_counted(built: Built) -> None:
    """Back through the estimated transform: no pixel of the way from the IHC slide into the tile may be lost."""
    for pair in built.cohort:
        folder = built.out / "work" / pair.pair
        transform = read_registration(folder).transform
        nuclei = cKDTree(pair.truth.ihc_cells.xy * pair.truth.ihc_mpp)
        offsets = []
        with TileStore(folder / "tiles.h5") as store:
            for tile in store.tiles():
                scale = np.array([tile.box.width, tile.box.height]) / 1024
                he = tile.cells.xy * scale + (tile.box.x, tile.box.y)
                ihc_um = transform.to_ihc(he) * pair.truth.ihc_mpp
                distance, index = nuclei.query(ihc_um)
                offsets.append(np.where(distance[:, None] < 4, ihc_um - nuclei.data[index], np.nan))
        found = ~np.isnan(np.concatenate(offsets)[:, 0])
        assert found.mean() > 0.7
        assert np.abs(np.nanmean(np.concatenate(offsets), axis=0)).max() < 0.15  # µm: half a tile pixel


def test_records_hold_what_the_store_holds(built: Built) -> None:
    manifest = read_manifest(built.out)
    pair = manifest.pairs[0]
    records = [r for path in shard_paths(built.out, [pair]) for r in iterate_shard(path)]
    with TileStore(built.out / "work" / pair.pair / "tiles.h5") as store:
        for record, tile in zip(records, store.tiles(), strict=True):
            assert record["image/encoded"] == tile.he_jpeg
            assert (record["label/positive"], record["label/negative"]) == (tile.counts.positive, tile.counts.negative)
            assert record["label/id"] == tile.label_id
            assert record["label/weight"] == tile.weight
            assert record["review/verdict"] == "unreviewed"
    assert [(r["tile/row"], r["tile/col"]) for r in records] == sorted((r["tile/row"], r["tile/col"]) for r in records)


def test_no_output_holds_a_patient_or_a_path(built: Built) -> None:
    for path in built.out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert NAME.split()[0].encode() not in data, path
            assert str(built.cohort[0].he.parent).encode() not in data, path


def test_a_killed_run_taken_up_again_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "records"
    command = [sys.executable, "-c", "from virtual_stain.cli.main import run; run()", "build-records"]
    command += [str(built.pairs_csv), "--out", str(out), "--accept-unreviewed", "--jobs", "2", "-q"]
    process = subprocess.Popen(command, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not list(out.glob("work/*/tiles.parts/*.h5")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "manifest.json").exists()
    assert not list(out.glob("*.tfrecord"))
    # at once, while a worker of the killed run may still be at its last tile
    result = build_records(built.pairs_csv, out, Config(), BuildOptions(accept_unreviewed=True, jobs=1))
    assert result.tiles_built < result.manifest.n_records  # the first run's parts were taken up
    assert _outputs(out) == _outputs(built.out)
    assert not list(out.glob("work/*/tiles.parts"))


def test_finished_work_is_not_done_again_and_a_lost_or_edited_shard_is_mended(built: Built, copy: Path) -> None:
    wanted = _outputs(built.out)
    shards = sorted(copy.glob("*.tfrecord"))
    shards[0].unlink()
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 2] ^= 1
    shards[1].write_bytes(data)
    result = build_records(built.pairs_csv, copy, Config(), ACCEPT)
    assert result.tiles_built == 0
    assert _outputs(copy) == wanted


_WITHOUT_TENSORFLOW = """
import sys
from pathlib import Path
sys.modules["tensorflow"] = None
from virtual_stain.config import Config
from virtual_stain.workflows.build_records import BuildOptions, build_records
result = build_records(Path(sys.argv[1]), Path(sys.argv[2]), Config(), BuildOptions(accept_unreviewed=True))
print(result.manifest.n_records)
"""


def test_a_run_over_finished_pairs_does_without_tensorflow(built: Built, copy: Path) -> None:
    """Its import alone took longer than everything else that such a run has to do."""
    command = [sys.executable, "-c", _WITHOUT_TENSORFLOW, str(built.pairs_csv), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == read_manifest(built.out).n_records
    assert _outputs(copy) == _outputs(built.out)


def test_changed_code_makes_its_stage_again_and_none_before(
    built: Built, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One list by hand had decided for all of a pair: a new rule for cells registered every pair again."""
    change = code_changer(tmp_path / "sources", monkeypatch)
    stages = (
        (pair_registration, "register_pair"),
        (pair_stain, "examine_slide_stain"),
        (part_job, "build_tile"),
        (records_write, "stage_shards"),
    )
    calls = [Calls(monkeypatch, module, name) for module, name in stages]
    n_tiles = read_manifest(built.out).n_records

    def run() -> tuple[int, ...]:
        build_records(built.pairs_csv, copy, Config(), ACCEPT)
        return tuple(c.since() for c in calls)

    for file, text in (("geometry.py", COMMENT), ("web/app.py", CODE), ("training/fit.py", CODE)):
        change(file, text)
        assert run() == (0, 0, 0, 0)
    change("records/write.py", CODE)
    assert run() == (0, 0, 0, 2)
    change("labels/raster_map.py", CODE)  # tiles alone are made with it
    assert run() == (0, 0, n_tiles, 2)
    change("counting/sampling.py", CODE)
    assert run()[:2] == (0, 2)
    change("registration/search.py", CODE)
    assert run() == (2, 0, 0, 0)  # the same registration came out
    assert _outputs(copy) == _outputs(built.out)


def test_a_damaged_store_or_registration_is_made_again(built: Built, copy: Path) -> None:
    first = built.cohort[0].pair
    store = copy / "work" / first / "tiles.h5"
    store.write_bytes(store.read_bytes()[:-1000])
    result = build_records(built.pairs_csv, copy, Config(), ACCEPT)
    assert result.tiles_built == next(p.n_records for p in result.manifest.pairs if p.pair == first)
    assert _outputs(copy) == _outputs(built.out)


def test_without_verdicts_nothing_is_taken_and_the_way_out_is_told(built: Built, copy: Path) -> None:
    before = _outputs(copy)
    with pytest.raises(ReviewPendingError, match=r"2 of 2 pairs have tiles that nobody has reviewed") as caught:
        build_records(built.pairs_csv, copy, Config(), BuildOptions(jobs=1))
    assert caught.value.exit_code == 4
    assert "--verdicts" in str(caught.value)
    assert _outputs(copy) == before  # the older manifest still vouches for its shards
    rows = (copy / "review-template.csv").read_text().splitlines()
    assert rows[0] == "pair,col,row,label_id,verdict,reviewer,reason"
    assert len(rows) - 1 == read_manifest(copy).n_records


def test_an_old_manifest_stayed_when_every_label_had_changed_and_waited_for_review(built: Built, copy: Path) -> None:
    for pair in built.cohort:
        packed = copy / "work" / pair.pair / "packed.json"
        record = json.loads(packed.read_text())
        record["made_from"]["tiles"] = "of other slides"
        packed.write_text(json.dumps(record))
    with pytest.raises(ReviewPendingError):
        build_records(built.pairs_csv, copy, Config(), BuildOptions(jobs=1))
    assert not (copy / "manifest.json").exists()
    assert (copy / "manifest.outdated.json").exists()
    assert list(copy.glob("*.tfrecord"))  # nothing is lost before there is something new
    build_records(built.pairs_csv, copy, Config(), ACCEPT)
    assert _outputs(copy) == _outputs(built.out)
    assert not (copy / "manifest.outdated.json").exists()


def test_an_old_manifest_kept_the_tiles_of_a_pair_that_a_person_had_rejected(built: Built, copy: Path) -> None:
    """The other pair waited for its review, so no new manifest was written and the old one went on vouching."""
    header, *rows = (copy / "review-template.csv").read_text().splitlines()
    first = [r.removesuffix(",,,") for r in rows if r.startswith(built.cohort[0].pair + ",")]
    verdicts = copy.parent / "verdicts.csv"
    verdicts.write_text("\n".join([header, *(f"{r},reject,Dr. X," for r in first)]) + "\n")
    with pytest.raises(ReviewPendingError, match="1 of 2 pairs"):
        build_records(built.pairs_csv, copy, Config(), BuildOptions(verdicts=verdicts))
    assert not (copy / "manifest.json").exists()
    assert (copy / "manifest.outdated.json").exists()
    build_records(built.pairs_csv, copy, Config(), BuildOptions(verdicts=verdicts, accept_unreviewed=True))
    assert [p.pair for p in verify_records(copy).manifest.pairs] == [built.cohort[1].pair]
    assert not (copy / "manifest.outdated.json").exists()


def test_only_accepted_tiles_become_records(built: Built, copy: Path, tmp_path: Path) -> None:
    header, *rows = (copy / "review-template.csv").read_text().splitlines()
    first = [r.removesuffix(",,,") for r in rows if r.startswith(built.cohort[0].pair + ",")]
    second = [r.removesuffix(",,,") for r in rows if r.startswith(built.cohort[1].pair + ",")]
    stale = second[0].rsplit(",", 1)[0] + "," + "f" * 32
    filled = [f"{first[0]},accept,Dr. X,", f"{first[1]},reject,Dr. X,fold", f"{first[2]},skip,Dr. X,"]
    filled += [f"{first[3]},accept,Dr. Y,", f"{stale},accept,Dr. X,"]
    verdicts = tmp_path / "verdicts.csv"
    verdicts.write_text("\n".join([header, *filled]) + "\n")
    with pytest.raises(ReviewPendingError, match="1 of 2 pairs"):
        build_records(built.pairs_csv, copy, Config(), BuildOptions(verdicts=verdicts))
    manifest = verify_records(copy).manifest
    assert [p.pair for p in manifest.pairs] == [built.cohort[0].pair]
    assert not manifest.accept_unreviewed
    assert [(e.pair, e.reason) for e in manifest.excluded] == [(built.cohort[1].pair, "no tile has a verdict yet")]
    records = [r for path in shard_paths(copy, manifest.pairs) for r in iterate_shard(path)]
    assert [r["label/id"] for r in records] == [first[0].split(",")[3], first[3].split(",")[3]]
    assert [r["review/reviewer"] for r in records] == ["Dr. X", "Dr. Y"]
    assert {p.name for p in copy.glob("*.tfrecord")} == {s.file for s in manifest.pairs[0].shards}
    assert len((copy / "review-stale.csv").read_text().splitlines()) == 2
    assert "accept,Dr. X" in (copy / "review-template.csv").read_text()


def test_the_waiver_does_not_cover_an_uncertain_registration(built: Built, copy: Path) -> None:
    folder = copy / "work" / built.cohort[1].pair
    write_registration(dataclasses.replace(read_registration(folder), verdict=Verdict.REVIEW), folder)
    record = json.loads((folder / "registered.json").read_text())
    record["files"] = file_hashes(folder, record["files"])
    (folder / "registered.json").write_text(json.dumps(record))
    with pytest.raises(ReviewPendingError, match=built.cohort[1].pair):
        build_records(built.pairs_csv, copy, Config(), ACCEPT)
    manifest = verify_records(copy).manifest
    assert [p.pair for p in manifest.pairs] == [built.cohort[0].pair]
    assert "its registration is uncertain" in manifest.excluded[0].reason


def test_one_bad_slide_does_not_stop_the_others(built: Built, copy: Path, tmp_path: Path) -> None:
    bad, ihc = tmp_path / "Mustermann.tiff", tmp_path / "ihc.tiff"
    data = built.cohort[0].he.read_bytes()
    bad.write_bytes(data[: len(data) // 3])
    shutil.copy(built.cohort[0].ihc, ihc)
    table = _table(tmp_path, built.cohort, f"cut-off,Somebody,ki67,{bad},{ihc},2")
    with pytest.raises(BatchError, match="1 of 3 pairs failed") as caught:
        build_records(table, copy, Config(), ACCEPT)
    assert caught.value.exit_code == 6
    manifest = verify_records(copy).manifest
    assert len(manifest.pairs) == 2
    assert manifest.excluded[0].pair == "cut-off"
    assert "Mustermann" not in (copy / "manifest.json").read_text() + (copy / "run.json").read_text()
    outcomes = json.loads((copy / "run.json").read_text())["outcomes"]
    assert [o["ok"] for o in outcomes] == [True, True, False]


def test_when_all_fail_the_error_is_their_own(built: Built, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tiff"
    bad.write_bytes(built.cohort[0].he.read_bytes()[:5000])
    table = _table(tmp_path, [], f"one,P,ki67,{bad},{built.cohort[0].ihc},")
    with pytest.raises(SlideError):
        build_records(table, tmp_path / "out", Config(), BuildOptions(accept_unreviewed=True))
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert (tmp_path / "out" / "run.json").exists()


def test_slides_of_different_tissue_are_rejected(built: Built, tmp_path: Path) -> None:
    row = f"mixed,P,ki67,{built.cohort[0].he},{built.cohort[1].ihc},"
    with pytest.raises(RejectedError, match="cannot be registered") as caught:
        build_records(_table(tmp_path, [], row), tmp_path / "out", Config(), BuildOptions(accept_unreviewed=True))
    assert caught.value.exit_code == 3
    assert (tmp_path / "out" / "work" / "mixed" / "overlay.jpg").exists()
    assert (tmp_path / "out" / "work" / "mixed" / "registration.json").exists()


def test_another_runs_folder_is_refused_and_force_takes_it_over(built: Built, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"labels\.min_tile_cells was 50 and is now 60"):
        build_records(built.pairs_csv, copy, Config(labels=LabelSettings(min_tile_cells=60)), ACCEPT)
    fewer = _table(tmp_path, built.cohort[:1])
    with pytest.raises(OutputError, match="is no longer in the table"):
        build_records(fewer, copy, Config(), ACCEPT)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "manifest.json").write_text("{}")
    with pytest.raises(OutputError, match="already holds the output of another run"):
        build_records(fewer, foreign, Config(), ACCEPT)
    assert [p.name for p in foreign.iterdir() if p.name != ".lock"] == ["manifest.json"]
    assert _outputs(copy) == _outputs(built.out)
    done = build_records(fewer, copy, Config(), BuildOptions(accept_unreviewed=True, force=True, jobs=2))
    assert done.tiles_built == done.manifest.n_records == verify_records(copy).records
    assert (copy / "review-template.csv").exists()


def test_shares_of_a_cluster_array_leave_only_review_and_packing(built: Built, copy: Path) -> None:
    script = Path(__file__).parents[2] / "tools" / "tile_pairs.py"
    spec = importlib.util.spec_from_file_location("tile_pairs", script)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for share in ("0/2", "1/2"):
        arguments = [str(built.pairs_csv), "--out", str(copy), "--share", share, "--jobs", "1", "-q"]
        done = CliRunner().invoke(tool.main, arguments)
        assert done.exit_code == 0, done.output
        assert done.output.startswith(built.cohort[int(share[0])].pair + ": accept, ")
    assert build_records(built.pairs_csv, copy, Config(), ACCEPT).tiles_built == 0


def test_two_runs_in_one_folder_are_refused(built: Built, copy: Path) -> None:
    with folder_lock(copy), pytest.raises(OutputError, match="another vstain run is writing here"):
        build_records(built.pairs_csv, copy, Config(), ACCEPT)
