"""Folders, patterns, staging and the table over all."""

import csv
import threading
import time
from pathlib import Path

import pytest

from tests.fixtures.models import TinyPredictor, block_slide, coloured_is_tissue, write_tiny_bundle
from virtual_stain.cli.main import _run
from virtual_stain.config import ScoringSettings
from virtual_stain.errors import BatchError, ConfigError, InputError, ModelError, VerificationError
from virtual_stain.exporting.signing import create_key, load_signing_key, sign_bundle
from virtual_stain.scoring import score as score_module
from virtual_stain.scoring import staging
from virtual_stain.scoring.inputs import collect_inputs, expand
from virtual_stain.scoring.open_model import open_predictor
from virtual_stain.scoring.staging import Stager, on_network
from virtual_stain.slides.slide import SlideRef
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions


@pytest.fixture(autouse=True)
def _known_mask(monkeypatch):
    monkeypatch.setattr(score_module, "find_tissue", coloured_is_tissue)


def test_a_folder_is_every_slide_below_it(tmp_path):
    for name in ("b.svs", "a.NDPI", "sub/ä.tiff", "sub/x-vstain/old.tif", ".hidden/h.svs", "notes.txt", "crop.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert [p.relative_to(tmp_path).as_posix() for p in expand(tmp_path)] == ["a.NDPI", "b.svs", "sub/ä.tiff"]
    assert expand(tmp_path / "*.svs") == [tmp_path / "b.svs"]
    assert expand(tmp_path / "b.svs") == [tmp_path / "b.svs"]
    assert expand(tmp_path / "missing.svs") == [tmp_path / "missing.svs"]  # its own error, when it is opened


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    path = tmp_path / "slide[1].svs"
    path.write_bytes(b"x")
    assert expand(path) == [path]


def test_an_empty_folder_and_a_pattern_without_match_are_refused(tmp_path):
    with pytest.raises(InputError, match="no slide below this folder"):
        expand(tmp_path)
    with pytest.raises(InputError, match="no file matches"):
        collect_inputs([tmp_path / "*.svs"], None, out=tmp_path / "o", mpp=None)


def _table(folder: Path) -> dict[str, dict[str, str]]:
    return {r["slide"]: r for r in csv.DictReader((folder / "scores.csv").read_text(encoding="utf-8").splitlines())}


def test_one_table_over_all_slides_grows_with_them_and_names_the_failed(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "c"):
        block_slide(tmp_path / "in" / f"{name}.tiff", [[150, 120]])
    (tmp_path / "in" / "b.svs").write_bytes(b"no slide")
    out = tmp_path / "out"
    inputs = collect_inputs([tmp_path / "in"], None, out=out, mpp=None)
    seen = []
    with pytest.raises(BatchError):
        score_slides(
            inputs,
            ScoreOptions(model="none"),
            predictor=TinyPredictor(),
            done=lambda scored: seen.append({n: r["status"] for n, r in _table(out).items()}),
        )
    assert seen == [
        {"a": "ok", "b": "pending", "c": "pending"},
        {"a": "ok", "b": "failed", "c": "pending"},
        {"a": "ok", "b": "failed", "c": "ok"},
    ]
    table = _table(out)
    assert table["a"]["ki67_n_tiles"] == "2"
    assert "expected a slide" in table["b"]["reason"]
    with pytest.raises(BatchError):
        score_slides(inputs, ScoreOptions(model="none"), predictor=TinyPredictor())
    assert _table(out)["a"]["reason"] == "already scored"


def test_a_single_slide_needs_no_table(tmp_path):
    path = block_slide(tmp_path / "a.tiff", [[150]])
    inputs = collect_inputs([path], None, out=tmp_path / "o", mpp=None)
    score_slides(inputs, ScoreOptions(model="none"), predictor=TinyPredictor())
    assert not (tmp_path / "o" / "scores.csv").exists()


def test_network_file_systems_are_told_by_the_longest_mount(tmp_path):
    mounts = tmp_path / "mounts"
    share = tmp_path / "my share"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nnas:/x {str(share).replace(' ', chr(92) + '040')} nfs4 rw 0 0\n")
    assert on_network(share / "a.svs", mounts)
    assert not on_network(tmp_path / "a.svs", mounts)
    assert not on_network(tmp_path / "my shared" / "a.svs", mounts)
    assert not on_network(tmp_path / "a.svs", tmp_path / "none")


def _refs(folder, count):
    refs = []
    for i in range(count):
        path = folder / f"s{i}.tiff"
        path.write_bytes(bytes([i]) * 1000)
        refs.append(SlideRef(path))
    return refs


def test_the_next_slide_is_copied_while_one_is_read_and_no_more(tmp_path):
    refs = _refs(tmp_path, 4)
    with Stager(refs, tmp_path / "stage", print) as stager:
        for index, ref in enumerate(refs):
            with stager.local(ref) as local:
                assert local.path != ref.path
                assert local.stem == ref.stem
                assert local.path.read_bytes() == bytes([index]) * 1000
                deadline = time.monotonic() + 10
                wanted = 2 if index < 3 else 1
                while len(list((tmp_path / "stage").rglob("*.tiff"))) < wanted and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert len(list((tmp_path / "stage").rglob("*.tiff"))) == wanted
            assert not local.path.exists()
    assert list((tmp_path / "stage").iterdir()) == []


def test_a_slide_that_cannot_be_copied_is_read_where_it_is(tmp_path, monkeypatch):
    refs = [SlideRef(tmp_path / "gone.svs"), *_refs(tmp_path, 1), SlideRef(tmp_path / "index.mrxs")]
    said = []
    with Stager(refs, tmp_path / "stage", said.append) as stager:
        with stager.local(refs[0]) as local:
            assert local == refs[0]
        monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: type("U", (), {"free": 10})())
        with Stager(refs[1:], tmp_path / "stage", said.append) as full, full.local(refs[1]) as local:
            assert local == refs[1]
        with stager.local(refs[2]) as local:
            assert local == refs[2]
    assert any("No such file" in s for s in said)
    assert any("GB free" in s for s in said)


def test_a_staged_slide_reports_the_place_it_came_from(tmp_path):
    path = block_slide(tmp_path / "a slide.tiff", [[150, 120]])
    inputs = collect_inputs([path], None, out=tmp_path / "o", mpp=None)
    options = ScoreOptions(model="none", stage=tmp_path / "stage")
    report = score_slides(inputs, options, predictor=TinyPredictor())[0].report
    assert report["slide"]["path"] == str(path)
    assert report["slide"]["name"] == "a slide"
    plain = score_slides(
        collect_inputs([path], None, out=tmp_path / "p", mpp=None),
        ScoreOptions(model="none"),
        predictor=TinyPredictor(),
    )[0].report
    assert plain["readings"] == report["readings"]
    assert threading.active_count() < 20


def test_a_bundle_that_is_not_signed_by_the_trusted_key_is_not_loaded(tmp_path, monkeypatch):
    folder = write_tiny_bundle(tmp_path / "tiny")
    create_key(tmp_path / "lab.pem")
    create_key(tmp_path / "other.pem")
    trusted = tmp_path / "lab.pem.pub"
    with pytest.raises(VerificationError, match="no signature"):
        open_predictor(str(tmp_path / "tiny"), None, trusted)
    sign_bundle(folder, load_signing_key(tmp_path / "other.pem"))
    with pytest.raises(VerificationError, match="expected a bundle signed with the key"):
        open_predictor(str(tmp_path / "tiny"), None, trusted)
    sign_bundle(folder, load_signing_key(tmp_path / "lab.pem"))
    assert open_predictor(str(tmp_path / "tiny"), None, trusted).card.name == "tiny"
    with pytest.raises(ConfigError, match="on the server"):
        open_predictor("grpc://h/tiny", None, trusted)


def test_options_of_the_command(tmp_path, capsys):
    write_tiny_bundle(tmp_path / "tiny")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        block_slide(folder / f"{name}.tiff", [[150, 120]])
    arguments = ["score", str(folder), "--model", str(tmp_path / "tiny"), "--out", str(tmp_path / "o")]
    assert _run([*arguments, "--crops", "center", "--stage", str(tmp_path / "stage")]) == 0
    assert set(_table(tmp_path / "o")) == {"a", "b"}
    assert "a: Ki67" in capsys.readouterr().out


def test_force_reads_every_tile_again_whatever_an_earlier_run_left(tmp_path):
    path = block_slide(tmp_path / "a.tiff", [[150, 120]])
    inputs = collect_inputs([path], None, out=tmp_path / "o", mpp=None)

    class Dies(TinyPredictor):
        def predict(self, tiles):
            if self.batches:
                raise ModelError("gone")
            return super().predict(tiles)

    one = ScoringSettings(batch_size=1)
    for force, expected in ((False, 1), (True, 2)):
        with pytest.raises(ModelError):
            score_slides(inputs, ScoreOptions(model="none", scoring=one), predictor=Dies())
        assert (tmp_path / "o" / "a.partial.npz").is_file()
        predictor = TinyPredictor()
        score_slides(inputs, ScoreOptions(model="none", scoring=one, force=force), predictor=predictor)
        assert len(predictor.batches) == expected
        (tmp_path / "o" / "a.report.json").unlink()
