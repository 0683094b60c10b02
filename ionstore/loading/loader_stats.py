"""`LoaderStats`: what a loader says about itself."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["resident", "regions", "device"]


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """How a loader spends memory and time.

    Parameters
    ----------
    mode : {"resident", "regions", "device"}
        Where samples are cut from: whole cubes, a few regions of them, or whole cubes on a device.
    core : int, optional
        Most cells along a side of the cores of regions, whole chunks where they hold one; None
        for uniformly random order.
    n_regions : int
        Regions.
    samples_per_opening : float
        Mean samples taken from a region before the next one takes its place.
    decoded_bytes, batch_bytes : int
        Memory of decoded fields, and of the batches prepared ahead, in this rank.
    predicted_amplification : float
        Cells decoded an epoch over cells of all cores: below 1 where an epoch leaves most regions
        out; 1 for whole cubes that stay.
    measured_amplification : float
        The same, from what was decoded since the loader was made: nan before its first batch, and
        far too large until the regions that are opened first have been left.
    openings : int
        Regions opened so far.
    decode_s : float
        Seconds spent on decoding regions so far, summed over background threads.
    """

    mode: Mode
    core: int | None
    n_regions: int
    samples_per_opening: float
    decoded_bytes: int
    batch_bytes: int
    predicted_amplification: float
    measured_amplification: float
    openings: int
    decode_s: float
