"""Ways to cut periodic neighborhoods, each as fast as its authors' interface allows.

Every function sets one contestant up, untimed, and returns it. All deliver C-contiguous float32
batches. Those that can write where they are told write into the same array; views are copied.
Peers without periodic boundaries get the box padded by the radius, with ``np.pad``, beforehand.
"""

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from box import NAMES
from contest import N_DROPPED, N_TIMED, Case, Contestant, Cutting, Streaming, UnavailableError

from ionstore.cube.mesh import Array, Fields
from ionstore.loading.gather import gather_neighborhoods
from ionstore.loading.loaders import NeighborhoodLoader

CACHE_BYTES = 8 * 10**9  # more than any box here: nothing that was decoded is dropped


def gather(case: Case) -> Contestant:
    """Call the kernel, one thread."""
    fields, out = case.box.fields, case.out

    def cut(b: int, m: int) -> Array:
        return gather_neighborhoods(fields, case.batches[b, :m], case.radius, out=out[:m])

    return Cutting(case, cut)


def loader(case: Case) -> Contestant:
    """Take batches from the loader, which fills them in its background thread."""
    return streaming_loader(Case.of(case.box, case.radius, N_DROPPED + N_TIMED), 0)


def streaming_loader(case: Case, num_workers: int) -> Streaming:
    """Return the loader over the cells of a case in their order."""
    loading = NeighborhoodLoader(
        case.box.store,
        redshifts=[case.box.redshift],
        radius=case.radius,
        batch_size=case.n,
        centers=case.batches.reshape(-1, 3),
        shuffle=False,
        num_workers=num_workers,
    )
    return Streaming(case, lambda: (batch.inputs.numpy() for batch in loading), loading.close)


def c_row_copy(case: Case, library: ctypes.CDLL) -> Contestant:
    """Copy the same rows in C."""
    fields, out = case.box.fields, case.out

    def cut(b: int, m: int) -> Array:
        centers = case.batches[b]
        library.row_copy(
            pointer(fields),
            ctypes.c_int64(len(fields)),
            ctypes.c_int64(case.box.mesh),
            pointer(centers),
            ctypes.c_int64(m),
            ctypes.c_int64(case.radius),
            pointer(out),
        )
        return out[:m]

    return Cutting(case, cut)


def c_memcpy(case: Case, library: ctypes.CDLL) -> Contestant:
    """Copy batches that are there already by one memcpy each: the limit."""
    there = [gather_neighborhoods(case.box.fields, b, case.radius) for b in case.batches]

    def cut(b: int, m: int) -> Array:
        size = ctypes.c_int64(case.out[:m].size)
        library.contiguous_copy(pointer(there[b]), size, pointer(case.out))
        return case.out[:m]

    return Cutting(case, cut)


def pad(case: Case, padded: Fields) -> Contestant:
    """Copy one slice of the padded box per cell."""
    out, width = case.out, case.width

    def cut(b: int, m: int) -> Array:
        for target, (i, j, k) in zip(out, case.batches[b, :m].tolist(), strict=False):
            target[...] = padded[:, i : i + width, j : j + width, k : k + width]
        return out[:m]

    return Cutting(case, cut)


def windows(case: Case, padded: Fields) -> Contestant:
    """Index one view of all neighborhoods of the padded box with the cells of a batch."""
    shape = (len(padded), *(case.width,) * 3)
    views = np.lib.stride_tricks.sliding_window_view(padded, shape)[0]

    def cut(b: int, m: int) -> Array:
        i, j, k = case.batches[b, :m].T
        batch: Array = views[i, j, k]
        return batch

    return Cutting(case, cut)


def memmap(case: Case, folder: Path) -> Contestant:
    """Copy up to eight slices of files mapped into memory per cell."""
    out = case.out
    for name, field in zip(NAMES, case.box.fields, strict=True):
        np.save(folder / f"{name}.npy", field)
    mapped = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in NAMES]

    def cut(b: int, m: int) -> Array:
        for target, center in zip(out, case.batches[b, :m].tolist(), strict=False):
            for there, here in periodic_pieces(center, case):
                for channel, field in enumerate(mapped):
                    target[channel][here] = field[there]
        return out[:m]

    return Cutting(case, cut)


def files_2021(case: Case, folder: Path) -> Contestant:
    """Load and stack files of one neighborhood and field each, written beforehand."""
    files = folder / f"neighborhoods{case.radius}"
    files.mkdir()
    for b, centers in enumerate(case.batches):
        batch = gather_neighborhoods(case.box.fields, centers, case.radius, out=case.out)
        for m, neighborhood in enumerate(batch):
            for channel, values in enumerate(neighborhood):
                np.save(files / f"{channel}_{b}_{m}.npy", values)

    def cut(b: int, m: int) -> Array:
        channels = range(len(NAMES))
        return np.array(
            [[np.load(files / f"{c}_{b}_{sample}.npy") for c in channels] for sample in range(m)]
        )

    return Cutting(case, cut)


def zarr_python(case: Case) -> Contestant:
    """Read up to eight slices per cell from the store with zarr-python."""
    import zarr

    box, out = case.box, case.out
    arrays = [zarr.open_array(box.store.path / name, mode="r") for name in NAMES]
    z = box.redshift_index

    def cut(b: int, m: int) -> Array:
        for target, center in zip(out, case.batches[b, :m].tolist(), strict=False):
            for there, here in periodic_pieces(center, case):
                for channel, array in enumerate(arrays):
                    target[channel][here] = array[(z, *there)]
        return out[:m]

    return Cutting(case, cut)


def tensorstore(case: Case) -> Contestant:
    """Copy from the store as TensorStore opens it, every chunk decoded and cached.

    Both fields are stacked into one virtual array. Each piece of a neighborhood is copied from the
    cache into its place in the batch; the copies of a whole batch are under way together, on
    TensorStore's own threads, as many as there are cores.
    """
    import tensorstore as ts

    box, out = case.box, case.out
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    arrays = [
        ts.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(box.store.path / name)},
            },
            read=True,
            context=context,
            recheck_cached=False,  # otherwise every read looks at the file
        ).result()[box.redshift_index]
        for name in NAMES
    ]
    for array in arrays:
        array.read().result()
    both = ts.stack([ts.cast(array, ts.float32) for array in arrays])

    def cut(b: int, m: int) -> Array:
        copies = []
        for target, center in zip(out, case.batches[b, :m].tolist(), strict=False):
            place = ts.array(target)
            for there, here in periodic_pieces(center, case):
                copies.append(place[(slice(None), *here)].write(both[(slice(None), *there)]))
        for copy in copies:
            copy.result()
        return out[:m]

    return Cutting(case, cut)


def torchio(case: Case, padded: Fields) -> Contestant:
    """Crop a padded Subject with TorchIO's Crop, the transform inside its patch samplers.

    One image of two channels, without the parsing and the history that its samplers add: they take
    up to three quarters more time.
    """
    import torch
    import torchio as tio

    width, out = case.width, torch.from_numpy(case.out)
    subject = tio.Subject(box=tio.ScalarImage(tensor=torch.from_numpy(padded)))
    last = padded.shape[1] - width

    def cut(b: int, m: int) -> Array:
        for target, (i, j, k) in zip(out, case.batches[b, :m].tolist(), strict=False):
            crop = tio.Crop((i, last - i, j, last - j, k, last - k), parse_input=False)
            target.copy_(crop(subject).box.data)
        return case.out[:m]

    return Cutting(case, cut)


def monai(case: Case, padded: Fields) -> Contestant:
    """Crop a padded tensor with MONAI's Crop and stack the crops.

    The base of SpatialCrop, called with slices, and without tracking of metadata: the fastest form.
    """
    import torch
    from monai.data import set_track_meta
    from monai.transforms import Crop

    set_track_meta(False)
    width, out, box = case.width, torch.from_numpy(case.out), torch.from_numpy(padded)
    crop = Crop()

    def cut(b: int, m: int) -> Array:
        crops = [
            crop(box, (slice(i, i + width), slice(j, j + width), slice(k, k + width)))
            for i, j, k in case.batches[b, :m].tolist()
        ]
        torch.stack(crops, out=out[:m])
        return case.out[:m]

    return Cutting(case, cut)


def xbatcher(case: Case, padded: Fields) -> Contestant:
    """Take windows of the padded box from xbatcher's BatchGenerator, by their number.

    It holds a selector for every window of a regular grid, so that one for every cell would not
    fit into memory: its cells are random ones of a coarser grid, not those of the others.
    """
    import xarray as xr
    import xbatcher as xb

    out, width = case.out, case.width
    stride = min(width, -(-case.box.mesh // 16))
    sides = dict.fromkeys("xyz", width)
    generator = xb.BatchGenerator(
        xr.DataArray(padded, dims=("field", *sides)),
        input_dims=sides,
        input_overlap=dict.fromkeys(sides, width - stride),
        preload_batch=False,  # nothing to load: the box is in memory
    )
    a_side = (padded.shape[1] - width) // stride + 1
    chosen = np.random.default_rng(case.radius).integers(0, a_side, size=case.batches.shape)

    def cut(b: int, m: int) -> Array:
        places = chosen[b, :m].T
        for target, place in zip(
            out, np.ravel_multi_index(places, (a_side,) * 3).tolist(), strict=False
        ):
            target[...] = generator[place].values
        return out[:m]

    return Cutting(case, cut, centers=chosen * stride)


def all_of(case: Case, folder: Path) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Set all contestants up.

    Returns
    -------
    contestants : dict
        By name, in the order of a round.
    skipped : dict
        Why the others cannot take part.
    """
    padded = np.pad(case.box.fields, ((0, 0), *((case.radius,) * 2,) * 3), mode="wrap")
    ways: dict[str, Callable[[], Contestant]] = {
        "gather": partial(gather, case),
        "loader": partial(loader, case),
        "c_row_copy": lambda: c_row_copy(case, compiled(folder)),
        "c_memcpy": lambda: c_memcpy(case, compiled(folder)),
        "pad": partial(pad, case, padded),
        "windows": partial(windows, case, padded),
        "memmap": partial(memmap, case, folder),
        "files_2021": partial(files_2021, case, folder),
        "zarr_python": partial(zarr_python, case),
        "tensorstore": partial(tensorstore, case),
        "torchio": partial(torchio, case, padded),
        "monai": partial(monai, case, padded),
        "xbatcher": partial(xbatcher, case, padded),
    }
    contestants, skipped = {}, {}
    for name, way in ways.items():
        try:
            contestants[name] = way()
        except ImportError as error:
            skipped[name] = f"{error}; install the extra 'bench'"
        except UnavailableError as error:
            skipped[name] = str(error)
    return contestants, skipped


def compiled(folder: Path) -> ctypes.CDLL:
    """Compile row_copy.c into a folder, once, and load it."""
    library = folder / "row_copy.so"
    if not library.exists():
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise UnavailableError("no C compiler; install one or set CC")
        source = Path(__file__).with_name("row_copy.c")
        options = ["-O3", "-march=native", "-shared", "-fPIC"]
        result = subprocess.run(
            [compiler, *options, str(source), "-o", str(library)],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise UnavailableError(f"{compiler} failed: {result.stderr.strip()}")
    return ctypes.CDLL(str(library))


def pointer(array: Array) -> ctypes.c_void_p:
    """Return where the values of an array begin."""
    return ctypes.c_void_p(array.ctypes.data)


Block = tuple[slice, slice, slice]


def periodic_pieces(center: list[int], case: Case) -> list[tuple[Block, Block]]:
    """Return (block of the mesh, block of the neighborhood) pairs, eight at most."""
    axes = [_pieces_along(cell - case.radius, case.width, case.box.mesh) for cell in center]
    return [((x[0], y[0], z[0]), (x[1], y[1], z[1])) for x, y, z in itertools.product(*axes)]


def _pieces_along(first: int, width: int, mesh: int) -> list[tuple[slice, slice]]:
    first %= mesh
    before = min(width, mesh - first)
    pieces = [(slice(first, first + before), slice(0, before))]
    if before < width:
        pieces.append((slice(0, width - before), slice(before, width)))
    return pieces
