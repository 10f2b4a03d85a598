import pytest

from virtual_stain.config import Config, load_config
from virtual_stain.config.load import config_from_dict
from virtual_stain.errors import ConfigError


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
    assert config.labels.min_tumour_cells == 50
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
    import json

    config = load_config(None, ["tiling.stride_um=50"])
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config_from_dict({}) == Config()
