"""The configuration of a training run: one frozen set of flat keys."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ionmodel.channels.base import DerivedChannel, channels_asked_for
from ionmodel.channels.mean_free_path import SOURCES, Law
from ionmodel.config.keys import parse_size, toml_value
from ionmodel.config.messages import message_of
from ionmodel.errors import ConfigError
from ionmodel.networks import NETWORK_KEYS, NETWORKS, OPTIONS, PREDICTS_TILES
from ionstore.sampling.symmetry import Symmetries
from ionstore.store.normalization import DEFAULT_TRANSFORMS, Transform

TARGET = "xhii"
"""Field that networks predict."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Widths = tuple[Count, ...]

Leak = Literal["neighborhoods", "large scales"]
"""Ways in which training sees validation cells: in neighborhoods, or in averages."""

_WITHOUT = {
    "tile": "single cells are trained on",
    "redshifts": "all are taken",
    "scales": "no input is smoothed",
    "mean_free_path": "sources are not smoothed by it",
    "mean_free_path_cmpc": 'for mean_free_path = "constant" alone',
    "samples_per_epoch": "all are taken",
    "validation_samples": "all are taken",
    "core": "chosen by the memory budget",
    "samples_per_opening": "a region's share of an epoch",
}
"""Meaning of a missing key of all networks, for the comments in config.toml."""

Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]


def _known_network(name: str) -> str:
    if name not in NETWORKS:
        raise ValueError(f"must be one of {', '.join(NETWORKS)}")
    return name


class TrainingConfig(BaseModel):
    """All keys that decide the result of a run.

    Parameters
    ----------
    preset : str
        Preset that the configuration started from.
    inputs : tuple of str
        Input fields; each has a branch.
    scales : tuple of float, optional
        Radii in cMpc of balls within which every input is averaged; each average is one more input.
        In cells if the box length is unknown. None by default.
    mean_free_path : {"constant", "choudhury2009", "worseck2014"}, optional
        Law of the mean free path of ionizing photons. Sources are averaged within it, as one more
        input. None by default.
    mean_free_path_cmpc : float, optional
        The mean free path in cMpc, if it is constant.
    redshift_input : bool
        Add the redshift as an input, so that one network serves all redshifts.
    redshifts : tuple of float, optional
        Redshifts trained on; all of the store by default.
    transforms : mapping of str to str
        Transforms by field, in place of `ionstore.store.normalization.DEFAULT_TRANSFORMS`; averages
        of a field have the same transform.
    network : str
        Family of networks, a name in `ionmodel.networks.NETWORKS`.
    radius : int
        Neighborhood radius in cells.
    tile : int, optional
        Cells along a side of the training tiles, for networks without padding; single cells by
        default.
    final_activation : bool
        Predict the sigmoid of the last layer.
    channels : tuple of int, optional
        Channels of the blocks of a branch. This and the following keys to `recompute` are for
        some families only (`ionmodel.networks.OPTIONS`), with the family's defaults.
    kernel : int, optional
        Kernel width of all convolutions in cells, odd.
    padding : bool, optional
        Pad convolutions with zeros; without padding, whole tiles are predicted at once.
    shared_branches : bool, optional
        Use the same weights in all branches.
    conv_bias : bool, optional
        Add a bias in convolutions.
    width : int, optional
        Channels between the convolutions.
    dilations : tuple of int, optional
        Dilation of each convolution; they add up to the radius.
    feature_dropout, head_dropout : float, optional
        Share dropped before and within the fully connected head, 0 to below 1.
    head_dropout_widths, head_widths : tuple of int, optional
        Widths of the head's linear layers with and, after them, without dropout.
    recompute : bool, optional
        Take less memory, and a third more time.
    loss : {"mse", "bce"}
        Mean squared error of the prediction, or binary cross-entropy on its logits.
    learning_rate : float
        Adam's learning rate, above 0 and at most 1: the initial one, or the highest of
        "one_cycle".
    scheduler : {"one_cycle", "plateau", "none"}
        "one_cycle" raises the learning rate for a tenth of all epochs, then lowers it to nearly
        nothing; a run that is given more epochs continues on the cycle of the longer run.
        "plateau" lowers it when the validation loss stalls.
    scheduler_factor : float
        Factor, 0 to 1, by which "plateau" then lowers the learning rate.
    scheduler_patience : int
        Epochs without progress that "plateau" tolerates first.
    batch_size : int
        Samples a step, cells or tiles, at least 2.
    samples_per_epoch : int, optional
        Training samples an epoch, different ones in each; by default all training cells, or as many
        tiles as hold as many cells.
    epochs : int
        Epochs.
    validation_samples : int, optional
        Validation samples, cells or tiles, the same in every epoch; by default as many as hold
        every validation cell.
    split : {"blocks", "store", "random"}
        Separate regions of each box; or the last of several stores for validation; or random cells
        as in 2021, for which the validation score is too good.
    random_cells : int
        Cells that the "random" split draws, the same at every redshift.
    seed : int
        Seed of weights, order, dropout and drawn cells, 0 to 2⁶³ - 1.
    device : {"auto", "cpu", "cuda", "mps"}
        Device to compute on; "auto" takes an accelerator if there is one. "mps" does not work
        with recompute.
    num_workers : int
        Processes that cut neighborhoods; 0 cuts in a background thread.
    memory_budget : int
        Bound on decoded fields and batches, in bytes or as a size such as "2GiB". Fields that do
        not fit are decoded region by region.
    symmetries : {"none", "permutations", "all"}
        Symmetries of the cube that training applies to its samples: orders of the axes, or reversed
        axes too. Do not reverse fields whose cells are not centered at the same points (21cmFAST's
        gas and sources).
    core : int, optional
        Cells along a side of the regions that samples come from together. By default samples come
        from everywhere if all fields fit the memory budget, else from the largest regions that do.
    samples_per_opening : int, optional
        Samples taken from a region before the next one takes its place.
    """

    # A misspelled key must not be ignored silently.
    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    inputs: tuple[str, ...] = Field(min_length=1)
    scales: Annotated[tuple[Length, ...], Field(min_length=1)] | None = None
    mean_free_path: Law | None = None
    mean_free_path_cmpc: Length | None = None
    redshift_input: bool = False
    redshifts: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    transforms: dict[str, Transform] = {}
    network: Annotated[str, AfterValidator(_known_network)]
    radius: int = Field(ge=0)
    tile: Count | None = None
    final_activation: bool
    channels: Annotated[Widths, Field(min_length=1)] | None = None
    kernel: Count | None = None
    padding: bool | None = None
    shared_branches: bool | None = None
    conv_bias: bool | None = None
    width: Count | None = None
    dilations: Widths | None = None
    feature_dropout: Share | None = None
    head_dropout_widths: Widths | None = None
    head_dropout: Share | None = None
    head_widths: Widths | None = None
    recompute: bool | None = None
    loss: Literal["mse", "bce"]
    learning_rate: float = Field(gt=0, le=1, allow_inf_nan=False)
    scheduler: Literal["one_cycle", "plateau", "none"]
    scheduler_factor: float = Field(gt=0, lt=1, allow_inf_nan=False)
    scheduler_patience: int = Field(ge=0)
    batch_size: int = Field(ge=2)
    samples_per_epoch: Count | None = None
    epochs: Count
    validation_samples: Count | None = None
    split: Literal["blocks", "store", "random"]
    random_cells: int = Field(ge=5)
    seed: int = Field(ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda", "mps"]
    num_workers: int = Field(ge=0)
    memory_budget: Size
    symmetries: Symmetries
    core: Count | None = None
    samples_per_opening: Count | None = None

    @model_validator(mode="after")
    def _values_fit_each_other(self) -> Self:
        # The network would see the values that it should predict.
        if TARGET in self.inputs:
            raise ValueError(f"inputs cannot hold the target {TARGET!r}; take it out")
        for key in ("inputs", "redshifts", "scales"):
            values = getattr(self, key) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{key} must differ from each other, got {list(values)}")
        # Names of channels hold six digits of a scale, so two scales may still give one name.
        if len(set(self.channel_names)) < len(self.channel_names):
            raise ValueError(
                f"scales must differ within six digits, got {list(self.scales or ())}; leave out "
                "those that are alike"
            )
        if (self.mean_free_path == "constant") != (self.mean_free_path_cmpc is not None):
            raise ValueError(
                "mean_free_path = 'constant' and mean_free_path_cmpc go together, got "
                f"{self.mean_free_path!r} and {self.mean_free_path_cmpc}; give both or another law"
            )
        if self.mean_free_path is not None and not {*SOURCES} & {*self.inputs}:
            raise ValueError(
                f"mean_free_path needs sources ({' or '.join(SOURCES)}) among the inputs, got "
                f"{list(self.inputs)}; add them or leave mean_free_path out"
            )
        # A misspelled field would otherwise keep its default transform unnoticed.
        unseen = [name for name in self.transforms if name not in self.channel_names]
        if unseen:
            raise ValueError(
                f"transforms must be of inputs ({', '.join(self.inputs)}) or their averages, got "
                f"one of {unseen[0]!r}; take it out or add it to the inputs"
            )
        if self.device == "mps" and self.recompute:
            raise ValueError("recompute needs float64, which device 'mps' lacks; use device 'cpu'")
        unknown = [key for key in self._given_network_keys() if key not in self._network_keys]
        if unknown:
            raise ValueError(
                f"network {self.network!r} has no {unknown[0]}; leave it out, or choose another "
                f"network ({', '.join(name for name in OPTIONS if unknown[0] in OPTIONS[name])})"
            )
        # The cross-entropy is one of probabilities, which only the sigmoid makes of logits.
        if self.loss == "bce" and not self.final_activation:
            raise ValueError("loss 'bce' needs final_activation = true; use loss 'mse' without it")
        return self

    @model_validator(mode="after")
    def _tiles_can_be_trained_on(self) -> Self:
        if self.tile is None:
            return self
        if self.network not in PREDICTS_TILES and self.padding is not False:
            raise ValueError(
                f"tile needs a network that predicts tiles ({', '.join(sorted(PREDICTS_TILES))}, "
                f"or another one with padding = false), got {self.network!r}; give -o tile=none to "
                "train on single cells"
            )
        if self.recompute:
            raise ValueError(
                "recompute is for neighborhoods, got a tile too; give -o tile=none or leave "
                "recompute out"
            )
        if self.split == "random":
            raise ValueError(
                "split 'random' draws single cells, got a tile too; give -o tile=none or use split "
                "'blocks'"
            )
        return self

    @property
    def derived_channels(self) -> tuple[DerivedChannel, ...]:
        """Inputs that are averages of other inputs."""
        return channels_asked_for(dict(self))

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Fields that the network sees: the inputs, then their averages."""
        return (*self.inputs, *(channel.name for channel in self.derived_channels))

    @property
    def channel_transforms(self) -> dict[str, Transform]:
        """Transforms of these fields, except for defaults."""
        # An average is transformed like its field, unless it has a transform of its own.
        known = {**DEFAULT_TRANSFORMS, **self.transforms}
        derived = {
            channel.name: known[channel.parent]
            for channel in self.derived_channels
            if channel.parent in known
        }
        return {**derived, **self.transforms}

    @property
    def n_channels(self) -> int:
        """Number of channels of the network: those fields, and the redshift if it is an input."""
        return len(self.channel_names) + self.redshift_input

    @property
    def leaks(self) -> Leak | None:
        """Leak of validation cells into training, if there is one."""
        # Random cells lie in each other's neighborhoods. Balls reach across the guard cells between
        # blocks, but not from one store into another.
        if self.split == "random":
            return "neighborhoods"
        return "large scales" if self.split == "blocks" and self.derived_channels else None

    def network_options(self) -> dict[str, Any]:
        """Return the given keyword arguments of the network's family."""
        # Keys that are left out are not passed on, so that the defaults of the family apply.
        arguments = self._network_keys.items()
        given = {
            argument: getattr(self, key)
            for key, argument in arguments
            if getattr(self, key) is not None
        }
        return {"final_activation": self.final_activation, **given}

    def to_toml(self) -> str:
        """Return the configuration as TOML that `read_toml` reads back."""
        lines = []
        for key, value in self.model_dump(mode="json").items():
            if value is not None:
                lines.append(f"{key} = {toml_value(value)}\n")
            # Keys that are left out become comments, so that config.toml shows every decision.
            elif key not in NETWORK_KEYS:
                lines.append(f"# {key} is not set: {_WITHOUT[key]}\n")
            elif key in self._network_keys:
                lines.append(f"# {key} is not set: the default of {self.network}\n")
        return "".join(lines)

    @property
    def _network_keys(self) -> dict[str, str]:
        """Arguments of the network's family, by key."""
        return OPTIONS[self.network]

    def _given_network_keys(self) -> list[str]:
        keys = (key for key in type(self).model_fields if key in NETWORK_KEYS)
        return [key for key in keys if getattr(self, key) is not None]


def make_config(keys: Mapping[str, Any]) -> TrainingConfig:
    """Return the configuration that the keys describe.

    Parameters
    ----------
    keys : mapping
        Values by key; "none" leaves out a key, if it may be left out.

    Raises
    ------
    ConfigError
        If a key is unknown or missing, or its value does not fit.
    """
    for key in keys:
        if key not in TrainingConfig.model_fields:
            nearest = difflib.get_close_matches(key, TrainingConfig.model_fields, n=1)
            way_on = f"the nearest is {nearest[0]!r}" if nearest else "see `ionmodel train --help`"
            raise ConfigError(f"{key!r} is no key of the configuration; {way_on}")
    # TOML has no null: the word "none" unsets a key of a preset.
    left_out = {
        key: None
        for key, value in keys.items()
        if value == "none" and not TrainingConfig.model_fields[key].is_required()
    }
    try:
        return TrainingConfig.model_validate({**keys, **left_out})
    except ValidationError as error:
        raise ConfigError(message_of(error)) from error
