"""Scoring through a server: the official protocol on loopback, the same numbers, and no number of another model."""

import json
import threading
import time

import grpc
import numpy as np
import pytest

from tests.fixtures.models import block_slide, coloured_is_tissue, tiny_card, write_tiny_bundle
from tests.fixtures.serving import Loopback
from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError, ModelError
from virtual_stain.scoring import open_model
from virtual_stain.scoring import remote as module
from virtual_stain.scoring import score as score_module
from virtual_stain.scoring.address import ServerAddress, is_server, parse_address
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.scoring.local import LocalPredictor
from virtual_stain.scoring.transport import proxy_note
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions

_OPEN = []


def open_predictor(*arguments):
    _OPEN.append(open_model.open_predictor(*arguments))
    return _OPEN[-1]


QUICK = ScoringSettings(server_patience_s=5, server_timeout_s=20)
KINDS = ("grpc", "rest")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.05)
    yield
    while _OPEN:
        _OPEN.pop().close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "tiny"
    write_tiny_bundle(folder)
    write_tiny_bundle(folder, tiny_card(min_tumour_cells=60))
    return folder


@pytest.fixture(scope="module")
def server(model):
    with Loopback(model, "tiny", labels={"stable": 1, "canary": 2}) as running:
        yield running


@pytest.fixture
def tiles():
    return np.random.default_rng(0).integers(0, 240, (5, 128, 128, 3), dtype=np.uint8)


def address(server, kind, suffix=""):
    return (server.grpc_address if kind == "grpc" else server.rest_address) + suffix


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crops", ["quadrants", "center"])
def test_served_and_local_answers_are_equal(server, model, tiles, kind, crops):
    local = LocalPredictor(model, ScoringSettings(precision="float32", crops=crops)).predict(tiles)
    remote = open_predictor(address(server, kind), ScoringSettings(crops=crops))
    served = remote.predict(tiles)
    for name, values in local.items():
        np.testing.assert_allclose(served[name], values, atol=1e-4 if name == "ki67" else 1e-3)
    assert (
        server.requests[-1][0]
        == {
            ("grpc", "quadrants"): "uint8",
            ("rest", "quadrants"): "serving_default",
            ("grpc", "center"): "center_uint8",
            ("rest", "center"): "center",
        }[kind, crops]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_jpeg_transport_stays_within_a_hundredth(server, model, kind):
    smooth = np.full((2, 128, 128, 3), (200, 120, 160), np.uint8)
    smooth[1, :, 40:80] = (120, 80, 150)
    local = LocalPredictor(model).predict(smooth)
    served = open_predictor(address(server, kind), ScoringSettings(transport="jpeg")).predict(smooth)
    np.testing.assert_allclose(served["ki67"], local["ki67"], atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_newest_version_is_pinned_and_named_in_every_request(server, tiles, kind):
    predictor = open_predictor(address(server, kind))
    assert predictor.card.version == 2
    assert predictor.engine["served_version"] == 2
    predictor.predict(tiles)
    assert server.requests[-1][1] == 2
    one = open_predictor(address(server, kind, "/versions/1"))
    one.predict(tiles)
    assert (one.card.version, server.requests[-1][1]) == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_is_resolved_once_and_then_pinned(server, tiles, kind):
    predictor = open_predictor(address(server, kind, "/labels/stable"))
    if kind == "grpc":
        assert predictor.engine["served_version"] == 1
    predictor.predict(tiles)
    assert server.requests[-1][1] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_that_vanishes_ends_the_run_and_mixes_nothing(model, tiles, kind):
    with Loopback(model, "tiny") as server:
        predictor = open_predictor(address(server, kind), QUICK)
        del server.versions[2]
        with pytest.raises(ModelError, match="version 2 is no longer served") as error:
            predictor.predict(tiles)
        assert "run the command again" in error.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_under_the_same_name_after_a_restart_is_noticed(model, tmp_path, tiles, kind):
    other = tmp_path / "tiny"
    write_tiny_bundle(other)
    write_tiny_bundle(other, tiny_card(min_tumour_cells=99))
    with Loopback(model, "tiny") as server, Loopback(other, "tiny") as changed:
        predictor = open_predictor(address(server, kind), QUICK)
        server.versions = changed.versions
        server.fail_next = [(grpc.StatusCode.UNAVAILABLE, 503)]
        with pytest.raises(ModelError, match="came back with another model"):
            predictor.predict(tiles)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_away_for_a_while_is_waited_for(model, tiles, kind):
    with Loopback(model, "tiny") as server:
        predictor = open_predictor(address(server, kind), QUICK)
        expected = predictor.predict(tiles)
        server.stop()
        threading.Timer(0.5, server.restart).start()
        again = predictor.predict(tiles)
        np.testing.assert_array_equal(again["ki67"], expected["ki67"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "refusal", [(grpc.StatusCode.UNAVAILABLE, 503), (grpc.StatusCode.RESOURCE_EXHAUSTED, 429)], ids=str
)
def test_a_full_queue_is_tried_again(server, tiles, kind, refusal):
    predictor = open_predictor(address(server, kind), QUICK)
    server.fail_next = [refusal] * 3
    assert predictor.predict(tiles)["ki67"].shape == (5,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_stays_away_is_an_error_with_the_way_out(model, tiles, kind):
    with Loopback(model, "tiny") as server:
        predictor = open_predictor(address(server, kind), ScoringSettings(server_patience_s=0.3))
        server.stop()
        with pytest.raises(ModelError, match="does not answer any more") as error:
            predictor.predict(tiles)
        assert "same command again" in error.value.hint
        server.restart()


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_does_not_wait_for_a_server(model, tiles, kind):
    with Loopback(model, "tiny") as server:
        predictor = open_predictor(address(server, kind), ScoringSettings(server_patience_s=1000))
        server.stop()
        threading.Timer(0.2, predictor.cancel).start()
        start = time.monotonic()
        with pytest.raises(ModelError):
            predictor.predict(tiles)
        assert time.monotonic() - start < 30
        server.restart()


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_name_and_a_wrong_version_say_so(server, kind):
    wrong = address(server, kind).replace("tiny", "kidney")
    with pytest.raises(ModelError, match="no such model or version") as error:
        open_predictor(wrong)
    assert "models.config" in error.value.hint
    with pytest.raises(ModelError, match="no such model or version"):
        open_predictor(address(server, kind, "/versions/9"))


@pytest.mark.parametrize("text", ["grpc://127.0.0.1:1/tiny", "http://127.0.0.1:1/v1/models/tiny"])
def test_nobody_there(text):
    with pytest.raises(ModelError, match="no answer") as error:
        open_predictor(text, ScoringSettings(server_patience_s=0.1))
    assert "8501" in error.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_of_another_size_is_refused_by_the_server_at_once(server, kind):
    predictor = open_predictor(address(server, kind))
    with pytest.raises(ModelError, match="Expected tiles of"):
        predictor.predict(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_foreign_model_has_no_card(tmp_path):
    import tensorflow as tf

    module_ = tf.Module()
    module_.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None], tf.float32)])
    tf.saved_model.save(module_, str(tmp_path / "foreign" / "1"), signatures={"serving_default": module_.f})
    with Loopback(tmp_path / "foreign", "foreign") as server:
        for kind in KINDS:
            with pytest.raises(ModelError, match="refused"):
                open_predictor(address(server, kind))


def test_numbers_are_understood_as_bytes_and_one_by_one(model, tiles):
    with Loopback(model, "tiny", content=True) as packed, Loopback(model, "tiny") as listed:
        a, b = (open_predictor(s.grpc_address).predict(tiles) for s in (packed, listed))
        np.testing.assert_array_equal(a["ki67"], b["ki67"])


def test_a_slide_scored_through_a_server_equals_the_local_one_and_resumes(model, tmp_path, monkeypatch):
    monkeypatch.setattr(score_module, "find_tissue", coloured_is_tissue)
    path = block_slide(tmp_path / "ä slide.tiff", [[150, 120, 170], [90, None, 120]])
    local = _scored(path, tmp_path / "local", str(model))
    with Loopback(model, "tiny") as server:
        for kind in KINDS:
            served = _scored(path, tmp_path / kind, address(server, kind))
            assert served["readings"]["ki67"]["global_mean"] == pytest.approx(
                local["readings"]["ki67"]["global_mean"], abs=1e-4
            )
        dying = tmp_path / "dying"
        with pytest.raises(ModelError, match="any more"):
            _scored(path, dying, server.grpc_address, fails=server, server_patience_s=0.2)
        assert (dying / "ä slide.partial.npz").is_file()
        server.restart()
        before = len(server.requests)
        resumed = _scored(path, dying, server.grpc_address)
        done = sum(n for s, _, n in server.requests[before:] if s == "uint8")
        assert 0 < done < resumed["tiles"]["scored"]
        assert resumed["readings"] == served["readings"]
        assert not (dying / "ä slide.partial.npz").exists()


def _scored(path, out, model, fails=None, **settings):
    scoring = ScoringSettings(batch_size=1, server_requests=1, **settings)
    inputs = collect_inputs([path], None, out=out, mpp=None)
    if fails is not None:
        original, stopping = fails.run, []

        def run(version, signature, tensors):
            if sum(r[0] == "uint8" for r in fails.requests) >= fails.allowed and not stopping:
                stopping.append(threading.Thread(target=fails.stop))
                stopping[0].start()
                time.sleep(0.3)
            return original(version, signature, tensors)

        fails.allowed = sum(r[0] == "uint8" for r in fails.requests) + 2
        fails.run = run
    try:
        return score_slides(inputs, ScoreOptions(model=model, scoring=scoring))[0].report
    finally:
        if fails is not None:
            fails.run = original
            stopping[0].join()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grpc://h:8500/ki67", ServerAddress("grpc", "h", 8500, "ki67")),
        ("grpc://h/ki67/versions/3", ServerAddress("grpc", "h", 8500, "ki67", 3)),
        ("grpcs://[::1]:9/ki67/labels/canary", ServerAddress("grpcs", "::1", 9, "ki67", None, "canary")),
        ("http://h/v1/models/ki67", ServerAddress("http", "h", 8501, "ki67")),
        ("http://h:80/v1/models/ki67/versions/2:predict", ServerAddress("http", "h", 80, "ki67", 2)),
        ("https://h:443/v1/models/a.b-c_1/", ServerAddress("https", "h", 443, "a.b-c_1")),
    ],
)
def test_addresses(text, expected):
    assert is_server(text)
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize("text", ["grpc://", "grpc://h:99999999/m", "http://h/v1/models/", "grpc://h/a/b", "http://h"])
def test_bad_addresses_name_a_good_one(text):
    with pytest.raises(ConfigError) as error:
        parse_address(text)
    assert "grpc://host:8500/ki67" in str(error.value)


def test_a_password_is_not_taken_into_reports():
    with pytest.raises(ConfigError, match="password"):
        parse_address("grpc://me:secret@h/ki67")
    assert not is_server("models/ki67")
    assert not is_server("s3://bucket/ki67")


def test_the_rest_client_needs_no_tensorflow():
    import subprocess
    import sys

    code = (
        "import sys, virtual_stain.scoring.remote, virtual_stain.scoring.rest_transport as r;"
        "from virtual_stain.scoring.address import parse_address;"
        "r.RestTransport(parse_address('http://h/v1/models/m'), 'quadrants');"
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_golden_requests(server, tiles):
    """What goes over the wire, byte for byte where it matters: names, shapes and pixels of the official messages."""
    seen = []
    original = server.run
    server.run = lambda version, signature, inputs: (
        seen.append((signature, inputs)) or original(version, signature, inputs)
    )
    try:
        open_predictor(server.grpc_address).predict(tiles)
        open_predictor(server.rest_address).predict(tiles)
    finally:
        server.run = original
    (describe, query), (raw, pixels), (_, _), (default, encoded) = seen
    assert (describe, raw, default) == ("describe", "uint8", "serving_default")
    assert query["query"].shape == (1,)
    np.testing.assert_array_equal(pixels["tiles"].numpy(), tiles)
    first = encoded["image_bytes"].numpy()[0]
    assert first.startswith(b"\x89PNG")
    import tensorflow as tf

    np.testing.assert_array_equal(tf.io.decode_png(first).numpy(), tiles[0])
    assert json.loads(open_predictor(server.grpc_address)._card_json)["tile_px"] == 128


def test_the_check_for_a_real_server_passes_on_loopback_and_fails_on_a_wrong_one(server, model, tmp_path):
    import subprocess
    import sys

    ports = ["--grpc-port", str(server.grpc_port), "--rest-port", str(server.rest_port)]
    program = "import sys; from virtual_stain.cli.main import run; run(sys.argv[1:])"
    command = [sys.executable, "-c", program, "serving", "check", "127.0.0.1", *ports]
    done = subprocess.run(
        [*command, "--model", "tiny", "--bundle", str(model)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == 9
    assert "FAIL" not in done.stdout
    done = subprocess.run([*command, "--model", "kidney"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 5
    assert "no such model or version" in done.stdout


class _RefusalError(Exception):
    def code(self):
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self):
        return "Received message larger than max (12582975 vs. 4194304)"


def test_a_message_that_is_too_large_is_not_sent_again(server, tiles, monkeypatch):
    """It was, for minutes, as if the server were busy; the answer would be the same every time."""
    predictor = open_predictor(address(server, "grpc"), ScoringSettings(server_patience_s=1000))
    transport = predictor._transport
    asked = []

    class RefusedError(_RefusalError, grpc.RpcError):
        pass

    class Stub:
        def Predict(self, request, timeout):
            asked.append(timeout)
            raise RefusedError

    monkeypatch.setattr(transport, "_stub", Stub())
    with pytest.raises(ModelError, match="takes no message of") as error:
        predictor.predict(tiles)
    assert len(asked) == 1
    assert "batch_size" in error.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_is_not_asked_for_this_machine(server, tiles, kind, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert open_predictor(address(server, kind), QUICK).predict(tiles)["ki67"].shape == (5,)


def test_a_proxy_that_is_used_is_named(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "http_proxy" in proxy_note("server.example:8500")
    assert "no_proxy=server.example" in proxy_note("server.example:8500")
    assert proxy_note("127.0.0.1:8500") == proxy_note("localhost:8500") == proxy_note("[::1]:8500") == ""
