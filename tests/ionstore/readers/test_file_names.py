import pytest

from ionstore.readers.file_names import redshift_in


@pytest.mark.parametrize(
    ("name", "redshift"),
    [
        ("xfrac3d_8.397.bin", 8.397),
        ("xfrac3D_10.110.bin", 10.11),
        ("IonRates3_8.700.bin", 8.7),
        ("8.397n_all.dat", 8.397),
        ("8.397-coarsest_wsubgrid_sources.dat.gz", 8.397),
        ("10.110-coarsest_wsubgrid_sources.hdf5", 10.11),
        ("xfrac_z8.700.npy", 8.7),
        ("xfrac_6.000.dat", 6.0),
        ("coeval_z8.000.h5", 8.0),
        ("xfrac.8.397.bin", 8.397),
        ("rho_z07.72", 7.72),
    ],
)
def test_names_of_the_codes_tell_the_redshift(name: str, redshift: float) -> None:
    assert redshift_in(name) == redshift


def test_the_last_number_with_a_point_counts() -> None:
    assert redshift_in("sigma0.8_xfrac_z8.700_64.dat") == 8.7
    assert redshift_in("7.305_from_8.397n_all.dat") == 8.397


@pytest.mark.parametrize(
    "name", ["xfrac_z8.npy", "IonizedBox_r77.h5", "xfrac3d.bin", "run3.4.0.dat", "coeval_8.h5", ""]
)
def test_names_without_such_a_number_tell_none(name: str) -> None:
    assert redshift_in(name) is None
