"""Sources smoothed by a ball of the mean free path of ionizing photons."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from ionmodel.channels.base import Box, DerivedChannel, within_box
from ionmodel.errors import ConfigError
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.mesh import Mesh

Law = Literal["constant", "choudhury2009", "worseck2014"]

SOURCES = ("n_src", "src_mass")
"""Fields that hold sources of ionizing photons."""

_LIGHT_KM_S = 299792.458


def choudhury2009(redshift: float, cosmology: Cosmology) -> float:
    """Return the mean free path set by Lyman-limit systems in cMpc, without radiation in H.

    Notes
    -----
    .. math:: \\lambda = (1 + z) \\, 0.1 \\, \\frac{c}{H(z)}
        \\left( \\frac{1 + z}{4} \\right)^{-2.55}

    References
    ----------
    Choudhury, Haehnelt, Regan 2009, MNRAS 394, 960, in the form of PINION's
    generate_propagation_mask.ipynb.

    Examples
    --------
    >>> from ionstore.cube.cosmology import PLANCK18
    >>> round(choudhury2009(8.397, PLANCK18), 2)
    29.38
    """
    h, omega_m = cosmology.known("h", "omega_m")
    hubble_km_s_mpc = 100 * h * math.sqrt(omega_m * (1 + redshift) ** 3 + 1 - omega_m)
    proper_mpc: float = 0.1 * _LIGHT_KM_S / hubble_km_s_mpc * ((1 + redshift) / 4) ** -2.55
    # The law is of a proper length: absorption spectra show 0.1 c/H, about 90 proper Mpc, at
    # redshift 3. PINION smooths by this number as if it were comoving, so by 1 + z times less.
    return (1 + redshift) * proper_mpc


def worseck2014(redshift: float) -> float:
    """Return the mean free path of pyC2Ray's model "Worseck2014" in cMpc.

    Notes
    -----
    .. math:: \\lambda = 210 \\left( \\frac{1 + z}{5} \\right)^{-9}
        \\left[ 1 + \\left( \\frac{1 + z}{7} \\right)^{9} \\right]

    References
    ----------
    Worseck et al. 2014, MNRAS 445, 1745. pyC2Ray, ``sinks_model.py`` (the form) and
    ``parameters.py`` (A_mfp, eta_mfp, z1_mfp, eta1_mfp, cMpc).

    Examples
    --------
    >>> [round(worseck2014(z), 2) for z in (4.0, 6.0, 9.0)]
    [220.16, 20.33, 10.57]
    """
    # The code's form, which falls steeply to 10.2 cMpc, so that inputs match its simulations. The
    # measured law is 37 ((1 + z) / 5)**-5.4 / h70 proper Mpc, for redshifts of 2.3 to 5.5 (Worseck
    # et al. 2014, abstract).
    return 210 * ((1 + redshift) / 5) ** -9 * (1 + ((1 + redshift) / 7) ** 9)


@dataclass(frozen=True, slots=True)
class MeanFreePath(DerivedChannel):
    """The mean of sources within the mean free path."""

    law: Law
    length_cmpc: float | None = None

    @classmethod
    def asked_for(cls, keys: Mapping[str, Any]) -> Iterator[Self]:
        """Yield a channel for each input of sources, if there is a law."""
        if keys["mean_free_path"] is not None:
            for parent in keys["inputs"]:
                if parent in SOURCES:
                    yield cls(parent, keys["mean_free_path"], keys["mean_free_path_cmpc"])

    @property
    def name(self) -> str:
        """Name of the field in a store.

        Examples
        --------
        >>> MeanFreePath("n_src", "worseck2014").name
        'n_src_mean_free_path'
        """
        return f"{self.parent}_mean_free_path"

    def long_name(self, mesh: Mesh) -> str:
        """Return its CF ``long_name``."""
        length = self.law if self.length_cmpc is None else f"{self.length_cmpc:g} cMpc"
        return f"{self.parent}, mean within the mean free path ({length})"

    def radius_cells(self, box: Box) -> float:
        """Return the mean free path in cells of a box."""
        if box.mesh.cell_size_cmpc is None:
            raise ConfigError(
                "mean_free_path needs the length of the box, which is unknown; supply it (a "
                "store's with `ionstore edit STORE --box-length`), or leave mean_free_path out"
            )
        length = self._length_cmpc(box)
        at = "" if box.redshift is None else f" at redshift {box.redshift:g}"
        what = f"the mean free path ({self.law}){at}"
        return within_box(length / box.mesh.cell_size_cmpc, what, box.mesh)

    def _length_cmpc(self, box: Box) -> float:
        if self.length_cmpc is not None:
            return self.length_cmpc
        if box.redshift is None:
            raise ConfigError(
                f"the mean free path of law {self.law!r} needs a redshift, got none; give redshift"
            )
        if self.law == "worseck2014":  # needs no cosmology
            return worseck2014(box.redshift)
        try:
            return choudhury2009(box.redshift, box.cosmology or Cosmology())
        except ValueError as error:
            raise ConfigError(
                f"the mean free path of law {self.law!r} needs h and omega_m of the cosmology, got "
                f"{box.cosmology or 'none'}; supply them (a store's with `ionstore edit`), or use "
                "law 'worseck2014'"
            ) from error
