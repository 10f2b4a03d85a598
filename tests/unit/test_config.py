import dataclasses
import json
import re
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtual_stain.config import (
    Config,
    CountingSettings,
    RegistrationSettings,
    TilingSettings,
    WebSettings,
    load_config,
)
from virtual_stain.config.check import Range
from virtual_stain.config.load import RENAMED, config_from_dict
from virtual_stain.errors import ConfigError
from virtual_stain.markers import ValueDefinition


def test_defaults_are_the_sources_numbers():
    config = load_config()
    assert config.tiling.window_um == 307.2
    assert config.tiling.tile_px == 1024
    assert config.tiling.tile_mpp == pytest.approx(0.3)
    assert config.model.crop_px == 512
    assert config.training.batch_size == 64
    assert config.training.learning_rate == 0.01
    assert config.training.max_steps == 1_000_000
    assert config.scoring.top_n == 30
    assert config.labels.min_tile_cells == 50
    assert (config.registration.accept_median_um, config.registration.review_median_um) == (30, 60)


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[tiling]\ntile_px = 512\nstride_um = 100\n")
    config = load_config(path, ["tiling.tile_px=256", "training.recipe=finetune"])
    assert config.tiling.tile_px == 256
    assert config.tiling.stride_um == 100.0
    assert config.training.recipe == "finetune"


def test_all_errors_are_told_at_once_and_a_near_miss_is_named(tmp_path):
    path = tmp_path / "b.toml"
    path.write_text("[tilling]\na = 1\n[tiling]\ntile_pix = 512\nwindow_um = 'x'\n[training]\nlearning_rate = -1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["scoring.top_n=0", "nonsense"])
    text = str(caught.value)
    assert "b.toml" in text
    for part in (
        "Did you mean 'tiling'?",
        "Did you mean 'tile_px'?",
        "tiling.window_um: expected float",
        "training.learning_rate",
        "scoring.top_n",
        "--set: expected section.key=value",
    ):
        assert part in text


@pytest.mark.parametrize(
    "bad", ["tiling.tile_px=true", "tiling.tile_px=1.5", "tiling=3", "counting.value_definition=x"]
)
def test_a_value_of_another_type_is_refused(bad):
    with pytest.raises(ConfigError):
        load_config(None, [bad])


def test_nan_is_no_number(tmp_path):
    with pytest.raises(ConfigError, match="window_um"):
        load_config(None, ["tiling.window_um=nan"])


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "x.toml")


def test_a_recorded_configuration_reads_back():
    config = load_config(None, ["tiling.stride_um=50"])
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config_from_dict({}) == Config()


@given(
    stride_um=st.none() | st.floats(1, 307.2),
    scales=st.tuples(st.floats(0.1, 1), st.floats(1, 10)),
    definition=st.sampled_from(ValueDefinition),
    hosts=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
def test_recorded_values_are_those_that_json_gives_back(stride_um, scales, definition, hosts):
    config = Config(
        tiling=TilingSettings(stride_um=stride_um),
        registration=RegistrationSettings(unknown_scale_range=scales),
        counting=CountingSettings(value_definition=definition),
        web=WebSettings(models=hosts, allowed_hosts=hosts),
    )
    plain = config.to_dict()
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again == plain
    assert type(plain["counting"]["value_definition"]) is str
    assert config_from_dict(again) == config


@pytest.mark.parametrize(("old", "new"), [(f"{s}.{k}", f"{s}.{new}") for (s, k), new in RENAMED.items()])
def test_an_old_name_is_refused_with_the_new_one(old, new, tmp_path):
    path, (section, key) = tmp_path / "old.toml", old.split(".")
    path.write_text(f"[{section}]\n{key} = 1\n")
    wanted = re.escape(f"{old} is called {new} now.")
    with pytest.raises(ConfigError, match=wanted):
        load_config(path)
    with pytest.raises(ConfigError, match=wanted):
        load_config(None, [f"{old}=1"])


def test_an_old_recorded_configuration_is_read_under_the_new_names():
    old = {
        "labels": {"min_tumour_cells": 20, "min_focus": 0.1},
        "counting": {"min_tumour_cells": 30, "min_focus": 0.2, "class_2_od": 0.41, "class_3_od": 0.61},
    }
    config = config_from_dict(old)
    assert (config.labels.min_tile_cells, config.labels.min_tile_focus) == (20, 0.1)
    counting = config.counting
    assert (counting.min_slide_cells, counting.min_window_focus) == (30, 0.2)
    assert (counting.intensity_2_od, counting.intensity_3_od) == (0.41, 0.61)


def test_every_new_name_is_a_setting_and_no_old_one_is():
    values = Config().to_dict()
    for (section, old), new in RENAMED.items():
        assert new in values[section]
        assert old not in values[section]


SECTIONS = {f.name: f.default_factory for f in dataclasses.fields(Config)}
RANGES = [
    (name, field, allowed)
    for name, section in SECTIONS.items()
    for field, hint in typing.get_type_hints(section, include_extras=True).items()
    for allowed in typing.get_args(hint)[1:]
    if isinstance(allowed, Range)
]


@pytest.mark.parametrize(("section", "field", "allowed"), RANGES, ids=[f"{s}.{f}" for s, f, _ in RANGES])
def test_a_value_beyond_the_range_beside_its_field_is_refused(section, field, allowed):
    for value in (allowed.low - 1, allowed.high + 1, float("nan")):
        with pytest.raises(ValueError, match=rf"^{field}: expected .*{re.escape(str(allowed.high))}"):
            SECTIONS[section](**{field: value})


def test_every_number_has_a_range_or_says_why_not():
    """A new setting without one would take anything."""
    elsewhere = {"tiling.stride_um", "model.crop_px", "training.micro_batch_size", "training.max_crop_cells"}
    elsewhere |= {"registration.review_median_um"}  # limits that depend on another setting
    bare = {
        f"{name}.{field}"
        for name, section in SECTIONS.items()
        for field, hint in typing.get_type_hints(section, include_extras=True).items()
        if hint in (int, float, int | None, float | None)
    }
    assert bare == elsewhere
