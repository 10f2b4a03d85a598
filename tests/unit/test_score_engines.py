"""What runs the network: bfloat16, OpenVINO, their check against the reference, threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.models import tiny_card
from tests.unit.test_inference_graph import CROP_PX, _network
from virtual_stain.config import ScoringSettings, TilingSettings
from virtual_stain.errors import ModelError
from virtual_stain.exporting.inference_graph import freeze_network
from virtual_stain.exporting.saved_model import write_bundle
from virtual_stain.markers import ValueDefinition
from virtual_stain.model.tile_reading import tile_reading
from virtual_stain.parallel import available_cores
from virtual_stain.scoring.bfloat16 import find_network, multiplies_bfloat16, to_bfloat16
from virtual_stain.scoring.engine_check import acceptable, difference
from virtual_stain.scoring.local import LocalPredictor
from virtual_stain.scoring.start_tensorflow import calls_at_once, start_tensorflow

TILE_PX = 2 * CROP_PX
RATIO = ValueDefinition.POSITIVE_RATIO


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle with convolutions: two crops a side."""
    model = _network()
    frozen = freeze_network(lambda c: model(c, training=False), CROP_PX)
    card = tiny_card(window_um=TILE_PX * 0.3, tile_px=TILE_PX)
    return write_bundle(
        lambda tiles: tile_reading(frozen, tiles, RATIO), [], card, tmp_path_factory.mktemp("m") / "model"
    )


@pytest.fixture
def tiles():
    return np.random.default_rng(0).integers(0, 240, (6, TILE_PX, TILE_PX, 3), dtype=np.uint8)


def test_bfloat16_is_used_where_it_agrees_and_says_how_well(bundle, tiles):
    reference = LocalPredictor(bundle)
    fast = LocalPredictor(bundle, ScoringSettings(precision="bfloat16"))
    facts = fast.check(tiles[:4])
    assert facts["precision"] == "bfloat16"
    assert facts["checked_tiles"] == 4
    a, b = reference.predict(tiles), fast.predict(tiles)
    assert 0 < np.abs(a["ki67"] - b["ki67"]).max() <= 0.005
    assert abs(a["ki67"].mean() - b["ki67"].mean()) <= 0.002


def test_bfloat16_that_does_not_agree_leaves_the_slide_to_float32(bundle, tiles, monkeypatch):
    monkeypatch.setattr("virtual_stain.scoring.engine_check.MAX_TILE_DIFFERENCE", 1e-9)
    fast = LocalPredictor(bundle, ScoringSettings(precision="bfloat16"))
    facts = fast.check(tiles[:4])
    assert facts["precision"] == "float32"
    assert facts["largest_difference"] > 1e-9
    np.testing.assert_array_equal(fast.predict(tiles)["ki67"], LocalPredictor(bundle).predict(tiles)["ki67"])


def test_the_convolutions_compute_in_bfloat16_and_the_rest_in_float32(bundle):
    from virtual_stain.scoring.signature import read_saved_model, signature_graph

    before = find_network(signature_graph(read_saved_model(bundle), "uint8"))
    after = to_bfloat16(before)
    types = {n.op: n.attr["T"].type for n in after.node_def if n.op in ("Conv2D", "Relu", "ConcatV2", "Mean", "MatMul")}
    assert types["Conv2D"] == types["Relu"] == types["ConcatV2"] == tf.bfloat16.as_datatype_enum
    assert types["Mean"] == types["MatMul"] == tf.float32.as_datatype_enum
    assert {n.attr["T"].type for n in before.node_def if n.op == "Conv2D"} == {tf.float32.as_datatype_enum}


def _deep():
    """Ten convolutions in a row."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((CROP_PX, CROP_PX, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    for _ in range(10):
        x = keras.layers.Conv2D(3, 3, padding="same", activation="relu", bias_initializer="random_normal")(x)
    mean = keras.ops.mean(x, axis=(1, 2, 3))
    return keras.Model(inputs, {"ki67": keras.ops.sigmoid(mean), "ki67_tumour_cells": keras.ops.exp(mean)})


def test_the_first_two_convolutions_of_a_deep_network_stay_float32():
    model = _deep()
    frozen = freeze_network(lambda c: model(c, training=False), CROP_PX)
    graph = frozen._function.get_concrete_function().graph.as_graph_def()
    after = to_bfloat16(find_network(graph))
    types = [n.attr["T"].type for n in after.node_def if n.op == "Conv2D"]
    assert types == [tf.float32.as_datatype_enum] * 2 + [tf.bfloat16.as_datatype_enum] * 8


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_answers_do_not_depend_on_batch_or_order(bundle, tiles, size, precision):
    predictor = LocalPredictor(bundle, ScoringSettings(precision=precision))
    predictor.check(tiles)
    whole = predictor.predict(tiles)
    order = np.array([3, 0, 5, 1, 4, 2])
    parts = [predictor.predict(tiles[order[i : i + size]]) for i in range(0, 6, size)]
    for name, values in whole.items():
        joined = np.concatenate([p[name] for p in parts])
        np.testing.assert_allclose(joined, values[order], atol=1e-6, rtol=1e-6)


def test_the_central_crop_is_another_signature_of_the_same_bundle(bundle, tiles):
    centre = LocalPredictor(bundle, ScoringSettings(precision="float32", crops="center"))
    inner = tiles[:, CROP_PX // 2 : -CROP_PX // 2, CROP_PX // 2 : -CROP_PX // 2]
    expected = tf.saved_model.load(str(bundle)).signatures["uint8"](tiles=tf.constant(np.tile(inner, (1, 2, 2, 1))))
    answer = centre.predict(tiles)
    np.testing.assert_allclose(answer["ki67"], expected["ki67"].numpy(), atol=1e-6)
    np.testing.assert_allclose(answer["ki67_tumour_cells"], expected["ki67_tumour_cells"].numpy(), rtol=1e-5)


def test_a_bundle_without_convolutions_has_no_bfloat16(tmp_path, tiles):
    from tests.fixtures.models import write_tiny_bundle

    predictor = LocalPredictor(write_tiny_bundle(tmp_path / "tiny"), ScoringSettings(precision="bfloat16"))
    assert predictor.check(np.zeros((1, 128, 128, 3), np.uint8))["precision"] == "float32"


def test_bundles_from_before_the_frozen_graph_still_load(tmp_path, tiles):
    model = _network()
    card = tiny_card(window_um=TILE_PX * 0.3, tile_px=TILE_PX)
    variables = [v.value for v in model.variables]
    old = write_bundle(lambda t: tile_reading(model, t, RATIO), variables, card, tmp_path / "old")
    predictor = LocalPredictor(old, ScoringSettings(precision="auto"))
    predictor.check(tiles)
    expected = tile_reading(model, tf.constant(tiles), RATIO)
    np.testing.assert_allclose(predictor.predict(tiles)["ki67"], expected["ki67"].numpy(), atol=0.005)


def test_differences_are_infinite_where_one_engine_has_no_reading():
    a = {"ki67": np.array([0.1, np.nan]), "ki67_tumour_cells": np.array([10.0, 0.0])}
    b = {"ki67": np.array([0.1, 0.2]), "ki67_tumour_cells": np.array([10.0, 0.0])}
    assert acceptable(difference(a, a, RATIO))
    assert not acceptable(difference(a, b, RATIO))
    off = {"ki67": a["ki67"], "ki67_tumour_cells": np.array([11.0, 0.0])}
    assert not acceptable(difference(a, off, RATIO))


def test_counts_may_differ_as_much_as_numbers_of_cells_do():
    """Per cent of the value where there are cells, of the mean where there are hardly any; never 0.005 cells.

    All tiles a few per cent off is another reading of the slide, and was let through.
    """
    cells = np.array([10.0, 0.0])
    a = {"ki67": np.array([1000.0, 1.0]), "ki67_tumour_cells": cells}
    near = {"ki67": np.array([1008.0, 3.0]), "ki67_tumour_cells": cells}
    far = {"ki67": np.array([1030.0, 1.0]), "ki67_tumour_cells": cells}
    all_off = {"ki67": a["ki67"] * 1.015, "ki67_tumour_cells": cells}
    found = difference(a, near, ValueDefinition.NEGATIVE_COUNT)
    assert acceptable(found)
    assert found["value"] == pytest.approx(0.008)
    assert not acceptable(difference(a, far, ValueDefinition.NEGATIVE_COUNT))
    assert not acceptable(difference(a, all_off, ValueDefinition.NEGATIVE_COUNT))
    assert not acceptable(difference(a, near, RATIO))


@pytest.mark.parametrize(("flags", "expected"), [("fpu amx_bf16", True), ("avx512_bf16", True), ("avx512f", False)])
def test_bfloat16_hardware_is_read_from_the_processor(tmp_path, flags, expected, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    path = tmp_path / "cpuinfo"
    path.write_text(f"model name\t: x\nflags\t\t: {flags}\n")
    assert multiplies_bfloat16(path) is expected
    assert multiplies_bfloat16(tmp_path / "none") is False


def test_the_default_tiling_is_untouched_by_the_engine():
    assert TilingSettings().tile_px == 1024
    assert keras.config.dtype_policy().name == "float32"  # no process-wide switch was turned


@pytest.mark.parametrize("crops", ["quadrants", "center"])
def test_openvino_reads_the_same_and_its_defaults_are_set(bundle, tiles, crops):
    pytest.importorskip("openvino")
    from virtual_stain.scoring.openvino_engine import OpenVinoPredictor

    tiles[2] = 255
    tiles[3, :CROP_PX, :CROP_PX] = 255  # one crop is padding, one tile is nothing else
    reference = LocalPredictor(bundle, ScoringSettings(precision="float32", crops=crops)).predict(tiles)
    predictor = OpenVinoPredictor(bundle, ScoringSettings(engine="openvino", precision="float32", crops=crops))
    answers = predictor.predict(tiles)
    for name, values in reference.items():
        np.testing.assert_allclose(answers[name], values, atol=1e-5, rtol=1e-4)
    assert np.isnan(answers["ki67"][2])
    assert predictor.check(tiles[:2])["name"] == "openvino"
    assert str(predictor._compiled.get_property("INFERENCE_PRECISION_HINT")).count("float32") == 1
    assert predictor._compiled.get_property("NUM_STREAMS") == available_cores()


def test_openvino_answers_calls_that_run_at_once(bundle, tiles):
    pytest.importorskip("openvino")
    from virtual_stain.scoring.openvino_engine import OpenVinoPredictor

    predictor = OpenVinoPredictor(bundle, ScoringSettings(engine="openvino", precision="float32"))
    whole = predictor.predict(tiles)
    with ThreadPoolExecutor(predictor.in_flight) as pool:
        parts = list(pool.map(lambda i: predictor.predict(tiles[i % 6 : i % 6 + 1])["ki67"][0], range(24)))
    np.testing.assert_array_equal(parts, np.tile(whole["ki67"], 4))
    predictor.close()


def test_a_max_pool_whose_type_a_saved_model_leaves_out_is_bfloat16_like_its_neighbours():
    """It ran in float32, between two conversions of the network's largest maps."""

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32)])
    def network(x):
        for channels in (3, 4):
            x = tf.nn.relu(tf.nn.conv2d(x, np.full([3, 3, channels, 4], 1 / 30, np.float32), 1, "SAME"))
            x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        return x

    function = network.get_concrete_function().graph.as_graph_def()
    saved = tf.compat.v1.GraphDef().library.function.add()
    saved.node_def.extend(function.node)
    for node in saved.node_def:
        if node.op == "MaxPool":
            assert node.attr["T"].type == tf.float32.as_datatype_enum
            del node.attr["T"]
    fast = to_bfloat16(saved)
    pools = [n for n in fast.node_def if n.op == "MaxPool"]
    assert [n.attr["T"].type for n in pools] == 2 * [tf.bfloat16.as_datatype_enum]
    ins = [n for n in fast.node_def if n.op == "Cast" and n.attr["DstT"].type == tf.bfloat16.as_datatype_enum]
    assert len(ins) == 1, "the picture alone is converted"


def test_every_core_gets_a_call_of_its_own(tmp_path):
    """In a process of its own, where TensorFlow has done nothing yet."""
    code = (
        "import virtual_stain.scoring.start_tensorflow as start\n"
        "start.available_cores = lambda: {cores}\n"
        "start.start_tensorflow()\n"
        "import tensorflow as tf\n"
        "print(start.calls_at_once(), tf.config.threading.get_intra_op_parallelism_threads())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_NUM_INTRAOP_THREADS"} | {"CUDA_VISIBLE_DEVICES": ""}

    def started(cores: int, **more: str) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", code.format(cores=cores)],
            check=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment | more,
        )
        return [int(n) for n in done.stdout.split()]

    assert started(2) == [2, 1]
    assert started(6) == [3, 2]
    assert started(64) == [4, 16]
    assert started(2, TF_NUM_INTRAOP_THREADS="2") == [1, 0], "what the user has set stays"


def test_a_tensorflow_that_has_worked_already_keeps_its_threads_and_gets_one_call(bundle, tiles):
    tf.constant(1.0)
    start_tensorflow()
    assert LocalPredictor(bundle).in_flight == calls_at_once() == 1


def test_calls_that_run_at_once_answer_as_one_does(bundle, tiles):
    predictor = LocalPredictor(bundle)
    whole = predictor.predict(tiles)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: predictor.predict(tiles[i % 6 : i % 6 + 1])["ki67"][0], range(24)))
    np.testing.assert_allclose(parts, np.tile(whole["ki67"], 4), rtol=0, atol=1e-6)


def test_openvino_that_does_not_agree_leaves_the_slide_to_tensorflow(bundle, tiles, monkeypatch):
    pytest.importorskip("openvino")
    from virtual_stain.scoring.openvino_engine import OpenVinoPredictor

    predictor = OpenVinoPredictor(bundle, ScoringSettings(engine="openvino", precision="bfloat16"))
    monkeypatch.setattr("virtual_stain.scoring.engine_check.MAX_TILE_DIFFERENCE", 0.0)
    facts = predictor.check(tiles)
    assert (facts["name"], facts["precision"]) == ("tensorflow", "float32")
    np.testing.assert_array_equal(predictor.predict(tiles)["ki67"], LocalPredictor(bundle).predict(tiles)["ki67"])


def test_openvino_needs_a_frozen_network(tmp_path):
    pytest.importorskip("openvino")
    from tests.fixtures.models import write_tiny_bundle
    from virtual_stain.scoring.openvino_engine import OpenVinoPredictor

    with pytest.raises(ModelError, match="frozen network"):
        OpenVinoPredictor(write_tiny_bundle(tmp_path / "tiny"), ScoringSettings(engine="openvino"))


def test_only_the_signature_that_is_asked_for_is_taken_from_the_file(bundle):
    from virtual_stain.scoring.signature import read_saved_model, signature_graph

    meta = read_saved_model(bundle)
    graph = signature_graph(meta, "uint8")
    assert len(graph.library.function) < len(meta.graph_def.library.function) / 2
    assert not any(n.op == "DecodeJpeg" for f in graph.library.function for n in f.node_def)
    with pytest.raises(KeyError):
        signature_graph(meta, "other")


def test_a_damaged_saved_model_is_no_traceback(tmp_path):
    from virtual_stain.scoring.signature import read_saved_model

    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="not a SavedModel"):
        read_saved_model(tmp_path)


def test_what_is_compared_is_the_network_that_reads(bundle, tiles):
    """Both signatures call one network; were only one of them in bfloat16, the check would prove nothing."""
    from virtual_stain.scoring.signature import read_saved_model, signature_graph

    graph = signature_graph(read_saved_model(bundle), "uint8", "center_uint8")
    predictor = LocalPredictor(bundle)
    fast = predictor._in_bfloat16(graph, "bfloat16")
    of_functions = [
        {n.attr["T"].type for n in f.node_def if n.op == "Conv2D"} for f in fast.library.function if "Conv2D" in str(f)
    ]
    assert of_functions == [{tf.bfloat16.as_datatype_enum}]
    facts = LocalPredictor(bundle, ScoringSettings(precision="bfloat16")).check(tiles)
    assert facts["checked_tiles"] == len(tiles)
    assert 0 < facts["largest_difference"] <= 0.005


def test_the_check_compares_single_crops(bundle, tiles, monkeypatch):
    """One crop's error counts in full: in a tile's mean its three neighbours would hide three quarters of it."""
    predictor = LocalPredictor(bundle, ScoringSettings(precision="bfloat16"))
    seen = []
    monkeypatch.setattr("virtual_stain.scoring.local.difference", lambda a, b, d: seen.append(a) or difference(a, b, d))
    predictor.check(tiles)
    centre = LocalPredictor(bundle, ScoringSettings(precision="float32", crops="center")).predict(tiles)
    np.testing.assert_allclose(seen[0]["ki67"], centre["ki67"], atol=1e-6)


def test_a_bundle_that_is_no_longer_used_leaves_tensorflow(bundle, tiles):
    import gc

    from tensorflow.python.eager import context

    def functions():
        return {n for n in context.context().list_function_names() if "_vstain_" in n}

    gc.collect()
    before = functions()
    predictor = LocalPredictor(bundle, ScoringSettings(precision="bfloat16"))
    predictor.check(tiles)
    assert functions() - before
    del predictor
    gc.collect()
    assert functions() == before


def test_tensorflow_starts_without_keras_and_keras_still_works(tmp_path):
    """In a process of its own, where nothing has imported either."""
    code = (
        "import os, sys\n"
        "from virtual_stain.scoring.start_tensorflow import start_tensorflow\n"
        "start_tensorflow()\n"
        "assert 'keras.src' not in sys.modules and 'TF_USE_LEGACY_KERAS' not in os.environ\n"
        "import keras, tensorflow as tf\n"
        "assert keras.__version__.startswith('3.') and tf.keras.Model is keras.Model\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
