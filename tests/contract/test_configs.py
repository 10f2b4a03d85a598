"""Every file in configs/ loads, and opens with the command that runs it, its time and what to expect."""

import re
from pathlib import Path

import pytest

from virtual_stain.config import load_config
from virtual_stain.config.shipped_files import shipped_configs
from virtual_stain.errors import ConfigError
from virtual_stain.model.tile_reading import crops_per_side
from virtual_stain.training.recipes import make_recipe

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))


def test_there_are_some():
    assert {p.stem for p in CONFIGS} >= {"ki67", "ki67_finetune", "demo", "demo_full"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_it_opens_with_its_command_time_and_result(path):
    head = path.read_text().split("\n[")[0]
    first = head.splitlines()[0]
    assert re.fullmatch(r"# vstain [a-z-]+ .*--config configs/" + re.escape(path.name) + r".*", first)
    assert "# Time: " in head
    assert "# Expect: " in head


@pytest.mark.parametrize("name", ["demo.toml", "demo_full.toml", "demo_small.toml", "demo_indirect.toml"])
def test_the_demos_configurations_are_those_that_the_package_runs(name):
    """One of them was a copy for a while: what is edited in a copy changes no demo."""
    assert (ROOT / "configs" / name).resolve() == ROOT / "virtual_stain" / "workflows" / "demo" / name


def test_a_shipped_configuration_is_loaded_by_its_name_and_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    assert set(shipped_configs()) == {p.stem for p in CONFIGS}
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("demo")) == load_config(ROOT / "configs" / "demo.toml")
    (tmp_path / "demo").write_text("[training]\nmax_steps = 7\n")
    assert load_config(Path("demo")).training.max_steps == 7
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Path("few_slide"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_it_loads_and_fits_together(path):
    config = load_config(path)
    assert crops_per_side(config.tiling.tile_px, config.model.crop_px) >= 1
    assert make_recipe(config.training, 100).phases[-1].end_step == config.training.max_steps


def test_ki67_holds_the_numbers_of_the_source():
    config = load_config(ROOT / "configs" / "ki67.toml")
    assert config.tiling.tile_mpp == pytest.approx(0.3)
    assert (config.model.kind, config.model.crop_px) == ("inception_v3", 512)
    t = config.training
    assert (t.recipe, t.batch_size, t.learning_rate, t.max_steps) == ("inception", 64, 0.01, 1_000_000)
    assert (t.rho, t.momentum, t.epsilon, t.decay_factor, t.decay_epochs, t.clip_norm) == (0.9, 0.9, 1.0, 0.94, 2, 2)


def test_ki67_only_says_what_the_defaults_are():
    """One source for each default: the file spells out the source's numbers, it does not change them."""
    config, default = load_config(ROOT / "configs" / "ki67.toml"), load_config()
    assert config.model == default.model
    assert config.tiling == default.tiling
    changed = {k for k, v in config.to_dict()["training"].items() if v != default.to_dict()["training"][k]}
    assert changed == {"micro_batch_size"}


def test_the_demo_starts_from_nothing_and_keeps_the_nuclei():
    for name in ("demo", "demo_full"):
        config = load_config(ROOT / "configs" / f"{name}.toml")
        assert config.model.weights == "none"
        assert config.tiling.tile_mpp <= 0.6
        assert config.model.batch_norm_momentum <= 0.9


def test_configurations_for_few_slides_and_a_processor_end_where_nuclei_are_seen():
    """They read at the scale of nuclei, weigh crops by their cells and do not leave their statistics to chance."""
    for name in ("few_slides", "cpu_only", "demo"):
        config = load_config(ROOT / "configs" / f"{name}.toml")
        assert (config.model.trunk_end, config.model.head, config.model.crop_weights) == ("mixed2", "dense", "cells")
        assert config.training.batch_norm_crops > 0
        assert config.training.warmup_steps > 0
        assert config.augment == load_config().augment, "the default augmentation"
