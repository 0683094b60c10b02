"""Write a store of a box repeated side by side, larger than memory, for regions_throughput.py.

ionstore simulate bench/box256 --mesh 256 --box-length 609
python benchmarks/tiled_store.py bench/box256 bench/box768.zarr --times 3
"""

import argparse
from pathlib import Path

import numpy as np

from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.mesh import Mesh
from ionstore.cube.statistics import FieldStatistics

FILES = {"n_igm": "rho", "n_src": "nsrc", "xhii": "xHII"}
UNITS = {"n_igm": "g cm-3", "n_src": "1", "xhii": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("simulation", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--times", type=int, default=3, help="along each axis")
    arguments = parser.parse_args()
    boxes = {}
    for name, prefix in FILES.items():
        (path,) = arguments.simulation.glob(f"{prefix}_z*.npy")
        box = np.load(path)
        boxes[name] = box.astype(np.uint8) if name == "n_src" else box.astype(np.float32)
    redshift = float(path.stem.partition("_z")[2])
    n = box.shape[0]
    fields = [StoredField(name, str(box.dtype), UNITS[name]) for name, box in boxes.items()]
    writer = create_store(arguments.store, Mesh(arguments.times * n), [redshift], fields)
    for name, box in boxes.items():
        for shard in writer.shards.layout.shard_indices():
            start, shape = writer.shards.layout.shard_region(shard)
            cells = [np.arange(a, a + m) % n for a, m in zip(start, shape, strict=True)]
            writer.shards.write_block(name, 0, start, box[np.ix_(*cells)])
    statistics = {name: [FieldStatistics.of(box)] for name, box in boxes.items()}
    writer.finalize(statistics)


if __name__ == "__main__":
    main()
