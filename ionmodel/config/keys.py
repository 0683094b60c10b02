"""Read keys of a configuration from presets, TOML files and options, and write them."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ionmodel.errors import ConfigError
from ionmodel.networks import NETWORK_KEYS, PREDICTS_TILES

DEFAULT_PRESET = "dense"

_EXAMPLES: dict[str, Any] = {
    "scales": [2.4, 4.8],
    "mean_free_path": "worseck2014",
    "mean_free_path_cmpc": 20.0,
    "redshift_input": True,
    "dilations": [1, 1, 2],
    "channels": [16, 32],
    "kernel": 3,
    "padding": True,
    "shared_branches": False,
    "conv_bias": False,
    "feature_dropout": 0.5,
    "head_dropout_widths": [64],
    "head_dropout": 0.5,
    "recompute": False,
    "redshifts": [8.397],
    "transforms": {"n_igm": "log1p"},
    "core": 64,
    "samples_per_opening": 1024,
}
"""Examples for keys that the default preset leaves out, or whose value there fits few boxes."""

_SAMPLE_KEYS = ("batch_size", "samples_per_epoch", "validation_samples")
"""Keys that count samples, which are tiles or cells."""

_SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_size(value: Any) -> Any:
    """Return the bytes of a size such as 800MB or 2GiB."""
    if not isinstance(value, str):
        return value  # pydantic checks other types
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?)?b?", value.strip().lower())
    if match is None:
        raise ValueError("must be a size such as 800MB, 2GiB or 1000000")
    return int(float(match[1]) * _SIZE_UNITS[match[2] or ""])


def over_preset(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a preset, overridden by those that a user gives."""
    network = given.get("network", preset["network"])
    # For another network than the preset's, the preset's network keys make no sense, nor does its
    # tile if the network predicts none.
    left: set[str] = set()
    if network != preset["network"]:
        left = set(NETWORK_KEYS) | ({"tile"} if network not in PREDICTS_TILES else set())
    keys = {key: value for key, value in preset.items() if key not in left} | dict(given)
    # Without tiles, samples are cells: take as many as the preset for single cells.
    if "tile" in preset and keys.get("tile", "none") == "none":
        cells = read_preset("small")
        keys |= {key: cells[key] for key in _SAMPLE_KEYS if key not in given}
    return keys


def preset_names() -> list[str]:
    """Return the names of the presets."""
    folder = resources.files("ionmodel.config") / "presets"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Return the keys of a preset."""
    if name not in preset_names():
        raise ConfigError(f"preset must be one of {', '.join(preset_names())}, got {name!r}")
    text = (resources.files("ionmodel.config") / "presets" / f"{name}.toml").read_text(
        encoding="utf-8"
    )
    return {"preset": name, **tomllib.loads(text)}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the keys of a TOML file."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected text in UTF-8, got other bytes; fix the file"
        ) from error
    except tomllib.TOMLDecodeError as error:
        lines = text.rstrip().splitlines() or [text]
        # Python 3.11 has the line only in the text of the error, and none at the end of a file.
        at = re.search(r"line (\d+)", str(error))
        number = min(int(at[1]), len(lines)) if at else len(lines)
        got = lines[number - 1].strip()
        raise ConfigError(
            f"{path}: expected lines of TOML such as {example('epochs', ' = ')} or "
            f"{example('inputs', ' = ')}, each key once, got {got!r} in line {number}; fix the line"
        ) from error


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Return the keys of ``key=value`` options; a value is TOML, or else a plain string.

    Examples
    --------
    >>> parse_options(["epochs=3", "device=cpu", "channels=[16, 32]"])
    {'epochs': 3, 'device': 'cpu', 'channels': [16, 32]}
    """
    keys: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"an option must read key=value, got {option!r}")
        if key in keys:
            raise ConfigError(f"{key} is given twice; give it once")
        # A bare word such as device=cpu is no TOML, but quotes would have to survive the shell.
        try:
            keys[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            keys[key] = text.strip()
    return keys


def given_keys(
    preset: str | None, config_file: Path | None, options: Iterable[str]
) -> dict[str, Any]:
    """Return the keys of a command line, which may include a preset."""
    given = {**(read_toml(config_file) if config_file else {}), **parse_options(options)}
    if preset is not None and given.setdefault("preset", preset) != preset:
        raise ConfigError(f"--preset {preset} contradicts the key preset = {given['preset']!r}")
    return given


def example(key: str, equals: str = "=", *, shell: bool = False) -> str:
    """Return a key with a value that fits it, in TOML or as an option in a shell."""
    value = {**read_preset(DEFAULT_PRESET), **_EXAMPLES}[key]
    text = value if shell and isinstance(value, str) else toml_value(value)
    return f"{key}{equals}{shlex.quote(text) if shell else text}"


def toml_value(value: Any) -> str:
    """Return a value of a configuration in TOML."""
    if isinstance(value, dict):
        entries = (f"{json.dumps(key)} = {toml_value(entry)}" for key, entry in value.items())
        return "{" + ", ".join(entries) + "}"
    return json.dumps(value)  # words, numbers, booleans and lists look the same in JSON and TOML
