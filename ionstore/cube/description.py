"""A description of a simulation beside its cubes: by its files, ``simulation.json``, the user."""

import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.units import N_SRC_UNITS, KnownFrame
from ionstore.errors import SourceDataError

FILE_NAME = "simulation.json"

INPUT_OPTIONS = {
    "box_length_cmpc": "--box-length",
    "h": "--h",
    "omega_m": "--omega-m",
    "omega_b": "--omega-b",
    "n_box": "--n-box",
    "n_src_units": "--n-src-unit",
}
"""Options of the command line that say what files leave open."""

_WORDS = {"box_length_cmpc": "box length (cMpc)", "n_src_units": "unit of n_src"}
_RANGES = {
    "box_length_cmpc": (float("inf"), "the box length must be positive, in cMpc"),
    "h": (10.0, "h must lie between 0 and 10 (100 km/s/Mpc)"),
    "omega_m": (2.0, "omega_m must lie between 0 and 2"),
    "omega_b": (2.0, "omega_b must lie between 0 and 2"),
    "sigma_8": (10.0, "sigma_8 must lie between 0 and 10"),
    "n_s": (10.0, "n_s must lie between 0 and 10"),
    "n_box": (float("inf"), "n_box must be positive, cells along a side of the N-body mesh"),
}
_KINDS = {
    "cosmology": "an object with keys such as h and omega_m",
    "name": "a string",
    "density_frame": '"proper" or "comoving"',
    "n_src_units": f"one of {', '.join(map(json.dumps, N_SRC_UNITS))}",
    "n_box": "a whole number",
    "seed": "a whole number",
}
_TEXTS = {"name", "density_frame", "n_src_units"}
_CHARACTERS_SHOWN = 40
_ROUNDING = 1e-5  # numbers that went through float32 or a printed table


class SimulationDescription(BaseModel):
    """Parameters of a simulation; every entry may be missing. `FILE_NAME` holds it as JSON.

    Parameters
    ----------
    box_length_cmpc : float, optional
        Comoving side of the box, cMpc.
    cosmology : Cosmology, optional
        Cosmology of the simulation.
    density_frame : {"proper", "comoving"}, optional
        Frame of the gas density in g/cm3.
    n_src_units : str, optional
        Unit of the sources: "1" for counts, "Msun", "grid_mass".
    n_box : int, optional
        Cells along a side of the finest mesh of the N-body run, whose mean mass is the grid mass.
    seed : int, optional
        Seed of the initial conditions.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    box_length_cmpc: float | None = None
    cosmology: Cosmology | None = None
    density_frame: KnownFrame | None = None
    n_src_units: str | None = None
    n_box: int | None = None
    seed: int | None = None

    def write(self, folder: Path) -> None:
        """Write `FILE_NAME` into a folder."""
        (folder / FILE_NAME).write_text(self.model_dump_json(indent=1) + "\n")

    def values(self) -> dict[str, float | int | str]:
        """Return what is known by name, the parameters of the cosmology among them."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name != "cosmology"}
        parameters = Cosmology.__dataclass_fields__ if self.cosmology else ()
        own |= {name: getattr(self.cosmology, name) for name in parameters}
        return {name: value for name, value in own.items() if value is not None}


def from_values(values: Mapping[str, float | int | str | None]) -> SimulationDescription:
    """Return the description of values by name, as `SimulationDescription.values` returns them."""
    known = {name: value for name, value in values.items() if value is not None}
    cosmology = {name: known.pop(name) for name in Cosmology.__dataclass_fields__ if name in known}
    return SimulationDescription.model_validate(known | {"cosmology": cosmology or None})


def describe(
    told: Sequence[tuple[str, SimulationDescription]],
    given: SimulationDescription,
    on_note: Callable[[str], object],
    *,
    otherwise: SimulationDescription | None = None,
) -> SimulationDescription:
    """Return all that is known of a simulation: as the user gives it, else as its files tell it.

    `told` names files with what each tells; `on_note` gets a sentence for everything given that
    the files say otherwise; `otherwise` is taken where neither says it. Raise SourceDataError if
    files contradict each other where nothing is given, or a value is out of range.
    """
    known = given.values()
    for name in (*SimulationDescription.model_fields, *Cosmology.__dataclass_fields__):
        says = [(file, values[name]) for file, what in told if name in (values := what.values())]
        word = _WORDS.get(name, name)
        if name in known:
            others = [value for _, value in says if not is_same(value, known[name])]
            if others:
                on_note(
                    f"{word}: {known[name]} as given here is used, "
                    f"the simulation's files say {others[0]}"
                )
        elif says:
            known[name] = says[0][1]
            for file, value in says[1:]:
                # Two names of a cosmology contradict each other in its numbers or not at all.
                if name != "name" and not is_same(value, known[name]):
                    raise SourceDataError(
                        f"{says[0][0]} and {file} contradict each other: {word} {known[name]} and "
                        f"{value}; {_way_on(name)}"
                    )
    if otherwise is not None:
        known = otherwise.values() | known
    check_known(known)
    return from_values(known)


def read_description(folder: Path) -> SimulationDescription:
    """Read `FILE_NAME` in a folder, empty if there is none; SourceDataError if it is malformed."""
    path = folder / FILE_NAME
    if not path.exists():
        return SimulationDescription()
    if not path.is_file():  # a pipe, say, which reading would wait on
        raise SourceDataError(f"{path}: expected JSON, got no file; mend or remove it")
    try:
        told = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceDataError(f"{path}: expected JSON, {error}; mend or remove the file") from error
    if not isinstance(told, dict):
        raise SourceDataError(
            f"{path}: expected an object with keys such as box_length_cmpc, "
            f"got {_shortened(told)}; mend or remove the file"
        )
    cosmology = told.get("cosmology")
    of_cosmology = cosmology.items() if isinstance(cosmology, dict) else ()
    known = {*SimulationDescription.model_fields, *Cosmology.__dataclass_fields__}
    for key, value in (*told.items(), *of_cosmology):
        # Pydantic takes true for 1, and "714" for 714.
        if key in known and (
            isinstance(value, bool) or (isinstance(value, str) and key not in _TEXTS)
        ):
            raise _is_of_another_kind(path, key, value)
    try:
        return SimulationDescription.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        raise _is_of_another_kind(path, str(first["loc"][-1]), first["input"]) from error


def unknown_keys(folder: Path) -> Iterator[str]:
    """Yield a note for every key of `FILE_NAME` in a folder that nobody reads."""
    path = folder / FILE_NAME
    told = json.loads(path.read_text()) if path.exists() else {}
    for where, keys, known in (
        ("", told, SimulationDescription.model_fields),
        ("cosmology.", told.get("cosmology") or {}, Cosmology.__dataclass_fields__),
    ):
        for key in sorted(set(keys) - set(known)):
            (nearest,) = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0)
            yield (
                f"{FILE_NAME}: {where}{key} is no key that is known, so it is ignored; "
                f"the nearest is {where}{nearest}"
            )


def _is_of_another_kind(path: Path, key: str, value: object) -> SourceDataError:
    return SourceDataError(
        f"{path}: {key} must be {_KINDS.get(key, 'a number')}, got {_shortened(value)}; "
        "mend or remove the file"
    )


def _shortened(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _CHARACTERS_SHOWN else f"{text[:_CHARACTERS_SHOWN]}…"


def is_same(one: float | str, other: float | str) -> bool:
    """Tell whether two values of a description are the same, numbers to rounding."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=_ROUNDING)


def _way_on(name: str) -> str:
    if name in INPUT_OPTIONS:
        return f"give {INPUT_OPTIONS[name]} if they are of one simulation"
    return "ingest the files of one simulation"


def length_in_cmpc(length_cmpc_h: float, h: float | None) -> float:
    """Return a box length given in cMpc/h; raise SourceDataError if h is unknown."""
    if h is None:
        raise SourceDataError(
            f"--box-length {length_cmpc_h:g}/h needs h, which is unknown; give --h, or the box "
            "length in cMpc"
        )
    return length_cmpc_h / h


def check_known(known: Mapping[str, float | int | str]) -> None:
    """Raise SourceDataError for numbers out of range, unknown units, more baryons than matter."""
    for name, (below, required) in _RANGES.items():
        value = known.get(name)
        if value is not None and not 0 < float(value) < below:
            raise SourceDataError(f"{required}, got {value}")
    unit = known.get("n_src_units")
    if unit is not None and unit not in N_SRC_UNITS:
        raise SourceDataError(
            f"the unit of n_src must be one of {', '.join(N_SRC_UNITS)}, got {unit}"
        )
    baryons, matter = (known.get(name) for name in ("omega_b", "omega_m"))
    if baryons is not None and matter is not None and float(baryons) > float(matter):
        raise SourceDataError(
            f"omega_b must not be above omega_m, which counts baryons as well, got {baryons} and "
            f"{matter}; check --omega-b and --omega-m"
        )
