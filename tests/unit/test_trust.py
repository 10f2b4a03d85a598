"""A signed model under another number or name, an unsigned one, and a graph that does more than compute."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from tests.fixtures.models import tiny_card, write_tiny_bundle
from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError, VerificationError
from virtual_stain.exporting.bundle import verify_bundle
from virtual_stain.exporting.signing import PublicKey, create_key, load_public_key, load_signing_key
from virtual_stain.exporting.trust import require_trusted
from virtual_stain.scoring.allowed_operations import require_allowed
from virtual_stain.scoring.open_model import open_predictor
from virtual_stain.scoring.signature import read_saved_model
from virtual_stain.workflows.verify_models import check_model, sign_model


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PublicKey]:
    """tiny/1 and tiny/2, both signed and registered."""
    root = tmp_path_factory.mktemp("trust")
    create_key(root / "lab.pem")
    key = load_signing_key(root / "lab.pem")
    for _ in range(2):
        sign_model(write_tiny_bundle(root / "tiny", tiny_card()), key)
    return root / "tiny", load_public_key(root / "lab.pem.pub")


def test_the_newest_signed_version_is_trusted(signed: tuple[Path, PublicKey]) -> None:
    model, key = signed
    assert require_trusted(model, key).card.version == 2
    assert require_trusted(model / "1", key).card.version == 1


def test_version_1_copied_to_9_passed_for_the_newest(signed: tuple[Path, PublicKey], tmp_path: Path) -> None:
    model, key = signed
    copy = shutil.copytree(model, tmp_path / "tiny")
    shutil.copytree(copy / "1", copy / "9")
    checks = (lambda: require_trusted(copy, key), lambda: check_model(copy, trusted=key), lambda: verify_bundle(copy))
    for check in checks:
        with pytest.raises(VerificationError, match=r"expected version 9\. Received: version 1"):
            check()


def test_an_older_version_was_put_back_in_place_of_the_newest(signed: tuple[Path, PublicKey], tmp_path: Path) -> None:
    model, key = signed
    copy = shutil.copytree(model, tmp_path / "tiny")
    shutil.rmtree(copy / "2")
    for check in (lambda: require_trusted(copy, key), lambda: check_model(copy, trusted=key)):
        with pytest.raises(VerificationError, match="expected version 2, the newest of"):
            check()


def test_a_signed_model_stood_in_for_another_marker(signed: tuple[Path, PublicKey], tmp_path: Path) -> None:
    model, key = signed
    copy = shutil.copytree(model, tmp_path / "ki67-of-the-lab")
    for check in (lambda: require_trusted(copy, key), lambda: check_model(copy, trusted=key)):
        with pytest.raises(VerificationError, match=r"Received: tiny version 2, signed as a model of Ki67"):
            check()


def test_a_signature_can_be_required(signed: tuple[Path, PublicKey]) -> None:
    with pytest.raises(ConfigError, match="require_signature"):
        open_predictor(str(signed[0]), ScoringSettings(require_signature=True))
    with pytest.raises(ConfigError, match="a server's bundle cannot be checked"):
        open_predictor("grpc://127.0.0.1:1/ki67", ScoringSettings(require_signature=True))


def test_a_graph_that_computes_is_allowed(signed: tuple[Path, PublicKey]) -> None:
    graph = read_saved_model(signed[0] / "1")
    assert graph is not None
    assert require_allowed(graph, "here") is None  # it raises what it refuses


@pytest.mark.parametrize("kind", ["read", "write", "python", "list", "print"])
def test_a_graph_that_reaches_outside_was_loaded(tmp_path: Path, kind: str) -> None:
    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def run(self, text: tf.Tensor) -> tf.Tensor:
            if kind == "read":
                return tf.io.read_file("/etc/passwd")
            if kind == "write":
                tf.io.write_file(str(tmp_path / "x"), text)
            elif kind == "python":
                return tf.py_function(lambda t: t, [text], tf.string)
            elif kind == "list":
                return tf.strings.reduce_join(tf.io.matching_files("/*"))
            else:
                tf.print(text, output_stream=f"file://{tmp_path / 'x'}")
            return text

    module = Model()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.run})
    with pytest.raises(VerificationError, match="could read, write or run: "):
        require_allowed(read_saved_model(tmp_path / "m"), "here")


def test_weights_are_not_written_by_a_signature(tmp_path: Path) -> None:
    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def run(self, text: tf.Tensor) -> tf.Tensor:
            tf.raw_ops.SaveV2(prefix=text, tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(1.0)])
            return text

    module = Model()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.run})
    with pytest.raises(VerificationError, match="SaveV2"):
        require_allowed(read_saved_model(tmp_path / "m"), "here")


def test_the_card_says_which_version_it_is(signed: tuple[Path, PublicKey]) -> None:
    card = verify_bundle(signed[0]).card
    assert card == dataclasses.replace(verify_bundle(signed[0] / "1").card, version=2)
