"""Configurations: flat keys, presets, and what is refused."""

import importlib
import inspect
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ionmodel.config.keys import over_preset, parse_options, preset_names, read_preset, read_toml
from ionmodel.config.training_config import TrainingConfig, make_config
from ionmodel.errors import ConfigError
from ionmodel.networks import NETWORK_KEYS, NETWORKS, OPTIONS, PREDICTS_TILES
from ionmodel.networks.base import DenseNetwork, build_network
from ionmodel.networks.two_branch import Head, HeadOptions


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_complete_and_survives_its_own_toml(name: str, tmp_path: Path) -> None:
    config = make_config(read_preset(name))
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert make_config(read_toml(path)) == config
    assert config.preset == name


def test_week3_is_the_system_of_2021() -> None:
    config = make_config(read_preset("week3"))
    assert (config.radius, config.channels, config.kernel) == (24, (128, 128, 128), 5)
    assert (config.batch_size, config.epochs, config.random_cells) == (32, 5, 3000)
    assert (config.learning_rate, config.loss, config.split) == (0.01, "mse", "random")
    assert config.head_dropout_widths == (256, 128, 64, 32, 16)
    assert config.head_widths == (8, 4)
    assert (config.feature_dropout, config.head_dropout) == (0.8, 0.5)
    assert (config.seed, config.shared_branches, config.final_activation) == (2021, False, True)


def test_small_builds_its_network() -> None:
    config = make_config(read_preset("small"))
    network = build_network(
        config.network,
        radius=config.radius,
        channels=len(config.inputs),
        seed=config.seed,
        **config.network_options(),
    )
    assert network.receptive_field == 2 * config.radius + 1


def test_toml_keeps_mappings_and_comments_on_missing_keys(tmp_path: Path) -> None:
    keys = {**read_preset("small"), "transforms": {"n_igm": "identity"}, "learning_rate": 1e-5}
    path = tmp_path / "config.toml"
    path.write_text(make_config(keys).to_toml())
    again = make_config(read_toml(path))
    assert "# redshifts is not set: all are taken\n" in path.read_text()
    heeded = OPTIONS["two_branch"]
    assert all(
        (f"{key} " in path.read_text()) == (key not in NETWORK_KEYS or key in heeded)
        for key in TrainingConfig.model_fields
    )
    assert again.transforms == {"n_igm": "identity"}
    assert again.redshifts is None
    assert again.learning_rate == 1e-5


def test_options_are_toml_or_plain_strings() -> None:
    options = ["epochs=3", "redshifts=[8.397, 7.305]", "loss = mse", "conv_bias=true", "x=a=b"]
    assert parse_options(options) == {
        "epochs": 3,
        "redshifts": [8.397, 7.305],
        "loss": "mse",
        "conv_bias": True,
        "x": "a=b",
    }


@pytest.mark.parametrize("options", [["epochs"], ["=3"], ["epochs=1", "epochs=2"]])
def test_malformed_options_are_refused(options: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"key=value|given twice"):
        parse_options(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, "'epoch' is no key .* nearest is 'epochs'"),
        ({"learning_rat": 3}, "nearest is 'learning_rate'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0; give for example -o epochs=20"),
        ({"epochs": "many"}, "epochs must be a whole number, got 'many'"),
        ({"loss": "l1"}, "loss must be 'mse' or 'bce', got 'l1'; .* loss=bce"),
        ({"loss": "bce", "final_activation": False}, "needs final_activation"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, got nan"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"seed": 2**63}, "seed must be below 9223372036854775808, got 9223372036854775808; give"),
        (
            {"transforms": {"n_gas": "log1p"}},
            r"transforms must be of inputs \(n_igm, n_src\) or their averages, got one of 'n_gas'",
        ),
        ({"inputs": []}, r"inputs must be a list of at least one value, got \[\]; give"),
        ({"inputs": "n_igm"}, r"""a list, got 'n_igm'; .* -o inputs='\["n_igm", "n_src"\]'"""),
        ({"channels": [16, 0]}, r"channels\[1\] must be at least 1, got 0; .*'\[16, 32\]'"),
        ({"channels": []}, r"channels must be a list of at least one value, got \[\]"),
        ({"kernel": 2.5}, "kernel must be a whole number, got 2.5"),
        ({"conv_bias": "perhaps"}, "conv_bias must be true or false, got 'perhaps'"),
        ({"transforms": {"n_igm": "log"}}, r"transforms\['n_igm'\] must be 'overdensity', 'log1p'"),
        ({"transforms": "log1p"}, "transforms must be a table, got 'log1p'; .* 'transforms={|{"),
        ({"network": 3}, "network must be a word, got 3"),
        ({"network": "foo"}, "^network must be one of pointwise, residual, two_branch, got 'foo'$"),
        ({"feature_dropout": 1}, "feature_dropout must be below 1, got 1"),
        ({"learning_rate": 2.0}, "learning_rate must be at most 1"),
        (
            {"memory_budget": "2 spoons"},
            "memory_budget must be a size such as .*2GiB.*, got '2 spoons'",
        ),
        ({"device": "mps", "recompute": True}, "float64"),
        ({"inputs": ["n_igm", "xhii"]}, "inputs cannot hold the target 'xhii'"),
        ({"inputs": ["n_igm", "n_igm"]}, "inputs must differ"),
        ({"redshifts": []}, r"redshifts must be a list .*, got \[\]; .* redshifts=.?\[8.397\]"),
        ({"redshifts": [8.0, 8.0]}, "redshifts must differ"),
        ({"scales": [5.0, 5.0]}, "scales must differ from each other"),
        ({"scales": [5.0, 5.0000001]}, "scales must differ within six digits"),
        ({"scales": [5.0, 0.0]}, r"scales\[1\] must be above 0, got 0.0; .*'\[2.4, 4.8\]'"),
        ({"scales": [float("inf")]}, r"scales\[0\] must be a finite number, got inf"),
        ({"mean_free_path": "songaila"}, "mean_free_path must be 'constant', 'choudhury2009' or"),
        ({"mean_free_path": "constant"}, "go together, got 'constant' and None; give both"),
        ({"mean_free_path_cmpc": 20}, "go together, got None and 20"),
        (
            {"mean_free_path": "worseck2014", "inputs": ["n_igm"]},
            r"needs sources \(n_src or src_mass\) among the inputs, got \['n_igm'\]",
        ),
    ],
)
def test_keys_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config({**read_preset("small"), **change})


@pytest.mark.parametrize("key", TrainingConfig.model_fields)
def test_every_key_has_an_example_that_fits(key: str) -> None:
    with pytest.raises(ConfigError, match=f"-o {key}=") as refused:
        make_config({**read_preset("small"), key: object()})
    option = shlex.split(str(refused.value).partition(" -o ")[2])[0]
    preset = "dense" if key in {"tile", "network", *OPTIONS["residual"]} else "small"
    others = {"mean_free_path": "constant"} if key == "mean_free_path_cmpc" else {}
    make_config({**read_preset(preset), **others, **parse_options([option])})


def test_averages_are_channels_after_the_inputs() -> None:
    keys = {"scales": [5, 10], "mean_free_path": "worseck2014", "redshift_input": True}
    config = make_config({**read_preset("small"), **keys, "transforms": {"n_src": "identity"}})
    assert config.channel_names == (
        "n_igm",
        "n_src",
        "n_igm_top_hat_5",
        "n_igm_top_hat_10",
        "n_src_top_hat_5",
        "n_src_top_hat_10",
        "n_src_mean_free_path",
    )
    assert config.n_channels == 8
    assert config.channel_transforms == {
        "n_igm_top_hat_5": "overdensity",
        "n_igm_top_hat_10": "overdensity",
        "n_src_top_hat_5": "identity",
        "n_src_top_hat_10": "identity",
        "n_src_mean_free_path": "identity",
        "n_src": "identity",
    }
    without = make_config(read_preset("small"))
    assert (without.channel_names, without.n_channels) == (without.inputs, 2)


def test_what_leaks_depends_on_split_and_averages() -> None:
    def leaks(**changes: Any) -> str | None:
        return make_config({**read_preset("small"), **changes}).leaks

    assert leaks() is leaks(split="store", scales=[5.0]) is leaks(redshift_input=True) is None
    assert leaks(scales=[5.0]) == leaks(mean_free_path="worseck2014") == "large scales"
    assert leaks(split="random") == leaks(split="random", scales=[5.0]) == "neighborhoods"


def test_a_key_that_is_missing_is_named() -> None:
    keys = read_preset("small")
    del keys["epochs"]
    with pytest.raises(ConfigError, match=r"epochs must be given; give for example -o epochs=20$"):
        make_config(keys)


def test_sizes_may_be_given_in_words() -> None:
    for words, size in (("2GiB", 2**31), ("800MB", 800_000_000), ("1000000", 10**6), (5000, 5000)):
        assert make_config({**read_preset("small"), "memory_budget": words}).memory_budget == size


def test_a_configuration_cannot_be_changed() -> None:
    config = make_config(read_preset("small"))
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 3
    assert isinstance(config.model_copy(update={"epochs": 3}), TrainingConfig)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ConfigError, match="one of dense, multiscale, small, week3, got 'huge'"):
        read_preset("huge")


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("seed = 1\nepochs = = 3\n", "'epochs = = 3' in line 2"),
        ("seed = 1\nepochs =\n\n", "'epochs =' in line 2"),
        ("epochs = 1\nepochs = 2", "'epochs = 2' in line 2"),
        ("inputs = [n_igm]", "'inputs = [n_igm]' in line 1"),
        ("é", "'é' in line 1"),
    ],
)
def test_a_line_that_is_no_toml_is_shown(tmp_path: Path, text: str, got: str) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_toml(broken)
    assert str(refused.value) == (
        f"{broken}: expected lines of TOML such as epochs = 20 or "
        f'inputs = ["n_igm", "n_src"], each key once, got {got}; fix the line'
    )


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="expected text in UTF-8"):
        read_toml(tmp_path / "broken.toml")


@pytest.mark.parametrize("family", OPTIONS)
def test_every_option_of_a_family_is_an_argument_of_it(family: str) -> None:
    module, _, name = NETWORKS[family].partition(":")
    network = getattr(importlib.import_module(module), name)
    arguments = set(inspect.signature(network).parameters)
    if family == "two_branch":
        arguments |= set(HeadOptions.__annotations__)
        assert set(HeadOptions.__annotations__) == {field.name for field in fields(Head)}
    assert set(OPTIONS[family].values()) <= arguments
    assert (family in PREDICTS_TILES) == issubclass(network, DenseNetwork)
    assert OPTIONS.keys() == NETWORKS.keys()


def test_keys_of_another_family_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'two_branch' has no dilations; .* \(residual\)"):
        make_config({**read_preset("small"), "dilations": [1, 3]})
    with pytest.raises(ConfigError, match=r"tile needs a network that predicts tiles \(pointwise"):
        make_config({**read_preset("small"), "tile": 8})


def test_another_network_leaves_behind_what_a_preset_says_of_its_own() -> None:
    config = make_config(over_preset(read_preset("small"), {"network": "residual", "width": 8}))
    assert (config.network, config.width, config.channels) == ("residual", 8, None)
    assert config.network_options() == {"final_activation": True, "width": 8}
    same = make_config(over_preset(read_preset("small"), {"network": "two_branch"}))
    assert same.channels == (16, 32)
    pointwise = make_config(
        over_preset(read_preset("dense"), {"network": "pointwise", "radius": 0})
    )
    assert (pointwise.tile, pointwise.batch_size) == (8, 8)


@pytest.mark.parametrize("given", [{"tile": "none"}, {"network": "two_branch"}])
def test_samples_are_counted_as_cells_where_there_are_no_tiles(given: dict[str, Any]) -> None:
    config = make_config(over_preset(read_preset("dense"), {**given, "validation_samples": 7}))
    small = make_config(read_preset("small"))
    assert config.tile is None
    assert (config.batch_size, config.samples_per_epoch) == (256, small.samples_per_epoch)
    assert config.validation_samples == 7


@pytest.mark.process
def test_a_configuration_needs_no_torch() -> None:
    code = (
        "import sys; from ionmodel.config import make_config; "
        "from ionmodel.config.keys import read_preset; make_config(read_preset('multiscale')); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
