"""Records and bundles in object storage: verified, trained on and scored with as if they lay in a folder."""

import functools
import http.server
import json
import sys
import threading
from pathlib import Path

import pytest

from tests.fixtures.models import tissue_slide, write_tiny_bundle
from tests.fixtures.object_storage import Bucket, s3_server, vstain
from tests.fixtures.records import tiny_records
from tests.fixtures.training import TINY
from virtual_stain.errors import ConfigError
from virtual_stain.remote import RemotePath

SAMPLE = Path(__file__).parents[2] / "tfrecords" / "sample"
_OVERVIEW = ["--set", "tissue.overview_mpp=2"]
SETS = [part for override in TINY for part in ("--set", override)]


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as server:
        yield server


def test_object_storage_without_its_library_was_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """tensorflow-io has no wheel for Windows."""
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    with pytest.raises(ConfigError, match="gs://bucket/manifest.json: object storage needs tensorflow-io"):
        RemotePath("gs://bucket/manifest.json").read_text()


def test_records_are_verified_where_they_lie(bucket: Bucket) -> None:
    whole = bucket.upload(SAMPLE, "a b/ganz ä")
    damaged = bucket.upload(SAMPLE, "damaged")
    shard = next(k for k in bucket.keys("damaged") if k.endswith("case00-0-00000-of-00001.tfrecord"))
    data = bytearray(bucket.get(shard))
    data[len(data) // 2] ^= 1
    bucket.put(shard, bytes(data))
    bucket.put("damaged/more-00000-of-00001.tfrecord", b"")
    missing = bucket.url("nothing/here")
    found = bucket.vstain(
        ["records", "verify", damaged, "-q"],
        ["records", "verify", missing, "-q"],
        ["records", "verify", "s3://no-such-bucket/x", "-q"],
        ["records", "verify", whole, "-q"],
    )
    assert [code for code, _, _ in found] == [3, 3, 3, 0]
    assert f"s3://records/{shard}: changed after the manifest was written" in found[0][2]
    assert "more-00000-of-00001.tfrecord: not in the manifest" in found[0][2]
    assert f"{missing}: expected a folder of records with manifest.json" in found[1][2]
    assert "everything fits" in found[3][1]


def test_a_run_on_a_bucket_is_the_run_on_a_folder(bucket: Bucket, tmp_path: Path) -> None:
    tiny_records(tmp_path / "records", tile_px=64, window_um=19.2)
    url = bucket.upload(tmp_path / "records", "training")
    runs = [tmp_path / "remote", tmp_path / "local"]
    commands = [
        ["fit", place, "--out", str(run), "-q", *SETS]
        for place, run in zip((url, str(tmp_path / "records")), runs, strict=True)
    ]
    found = bucket.vstain(commands[1], commands[0], ["evaluate", str(runs[0]), "-q"])
    assert [code for code, _, _ in found] == [0, 0, 0], found
    assert (runs[0] / "evaluation.json").is_file()
    best = [json.loads((run / "run.json").read_text())["summary"]["best_validation_loss"] for run in runs]
    assert best[0] == pytest.approx(best[1], rel=1e-3)
    assert json.loads((runs[0] / "run.json").read_text())["data"]["records"] == url


def test_a_model_is_fetched_once_verified_and_scores_the_same(bucket: Bucket, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "model")
    write_tiny_bundle(tmp_path / "model")
    url = bucket.upload(tmp_path / "model", "models/ki67")
    slide = str(tissue_slide(tmp_path / "slide.tiff"))
    cache = tmp_path / "cache"

    def score(model: str, out: str) -> list[str]:
        return ["score", slide, "--model", model, "--out", str(tmp_path / out), "-q", *_OVERVIEW]

    found = bucket.vstain(score(str(tmp_path / "model"), "local"), score(url, "remote"), XDG_CACHE_HOME=str(cache))
    assert [code for code, _, _ in found] == [0, 0], found
    tables = [(tmp_path / out / "slide.tiles.csv").read_bytes() for out in ("local", "remote")]
    assert tables[0] == tables[1]
    report = json.loads((tmp_path / "remote" / "slide.report.json").read_text())
    assert report["model"]["version"] == 2  # the newest

    for key in bucket.keys("models/ki67/2/"):  # only the card is left: the copy in the cache does
        if not key.endswith("bundle.json"):
            bucket.client.delete_object(Bucket="records", Key=key)
    changed = json.loads(bucket.get("models/ki67/1/bundle.json"))
    changed["files"]["../evil"] = {"bytes": 1, "sha256": "0" * 64}
    bucket.put("models/ki67/1/bundle.json", json.dumps(changed).encode())
    bucket.upload(tmp_path / "model" / "2", "models/other/2")
    bucket.put("models/other/2/saved_model.pb", b"another graph")
    found = bucket.vstain(
        score(bucket.url("models/ki67/1"), "x"),
        score(bucket.url("models/nothing"), "x"),
        score(url, "again"),
        XDG_CACHE_HOME=str(cache),
    )
    assert [code for code, _, _ in found] == [3, 5, 0], found
    assert "expected names of files inside the bundle. Received: '../evil'" in found[0][2]
    assert "expected a model bundle" in found[1][2]
    copies = {p.name for p in (cache / "virtual_stain" / "models").iterdir()}
    (changed_code, _, changed_error) = bucket.vstain(
        score(bucket.url("models/other"), "x"), XDG_CACHE_HOME=str(tmp_path / "other cache")
    )[0]
    assert changed_code == 3
    assert "saved_model.pb: changed" in changed_error
    assert len(copies) == 2  # the lock and one copy
    assert all(p.suffix == ".lock" for p in (tmp_path / "other cache" / "virtual_stain" / "models").iterdir())


def test_a_server_that_is_not_there_is_said_at_once(bucket: Bucket) -> None:
    code, _, error = bucket.vstain(["records", "verify", "s3://records/x"], S3_ENDPOINT="http://127.0.0.1:9")[0]
    assert code == 3
    assert "s3://records/x/manifest.json: the server 127.0.0.1:9 cannot be reached" in error
    assert "S3_ENDPOINT" in error


def test_records_are_read_from_a_plain_web_server() -> None:
    handler = functools.partial(_Quiet, directory=str(SAMPLE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        code, out, error = vstain(["records", "verify", url, "-q"])[0]
        server.shutdown()
    assert code == 0, error
    assert "everything fits" in out


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass
