PYTHON ?= python3
# A CPU-only torch: make demo TORCH_INDEX=<index URL that pytorch.org shows for Linux, pip, CPU>
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check format bench clean

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --constraint constraints.txt --no-deps --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/ionstore simulate demo/sim --redshift 8.397 --redshift 7.305
	$(BIN)/ionstore ingest demo/sim demo/cubes.zarr
	$(BIN)/ionmodel train --store demo/cubes.zarr --run demo/run -o epochs=6
	$(BIN)/ionstore view demo/cubes.zarr --field xhii --redshift 8.397 -o demo/slice.png

QUICK := not process and not server and not slow

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto -m "$(QUICK)"
	@echo "left out: tests that start processes or servers, and slow ones; \`make test-all\` runs all"

# A file stays on one worker, so that what its tests share is made once.
test-all: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A 300³ box to measure with, and one of 768³ cells; week3 is left out of train_memory.py, it takes
# ten minutes alone.
bench/box300.zarr: | $(VENV)/installed
	$(BIN)/ionstore simulate bench/box300 --mesh 300 --box-length 714 --overwrite
	$(BIN)/ionstore ingest bench/box300 bench/box300.zarr

bench/box768.zarr: | $(VENV)/installed
	$(BIN)/ionstore simulate bench/box256 --mesh 256 --box-length 609 --overwrite
	$(BIN)/python benchmarks/tiled_store.py bench/box256 bench/box768.zarr --times 3

# Left out: device_throughput.py, which is for a machine with a GPU. region_order.py was also run on
# real output; see benchmarks/README.md.
bench: bench/box300.zarr bench/box768.zarr
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev,bench]"
	$(BIN)/python benchmarks/gather_throughput.py
	$(BIN)/python benchmarks/symmetry_throughput.py
	$(BIN)/python benchmarks/loader_throughput.py
	$(BIN)/python benchmarks/regions_throughput.py bench/box768.zarr
	$(BIN)/python benchmarks/decode.py bench/box300.zarr
	$(BIN)/python benchmarks/loader_memory.py bench/box300.zarr resident epochs
	$(BIN)/python benchmarks/loader_memory.py bench/box768.zarr regions epochs
	$(BIN)/python benchmarks/train_memory.py bench/box300.zarr small way_2021
	$(BIN)/python benchmarks/region_order.py bench/box300.zarr --memory-budget 250MB
	$(BIN)/python benchmarks/thread_waiting.py
	$(BIN)/python benchmarks/codecs.py bench/box300 --redshift 8.397
	$(BIN)/python benchmarks/ingest.py bench/box300 speed
	$(BIN)/python benchmarks/ingest.py bench/box256 memory --times 4
	$(BIN)/python benchmarks/convolution.py
	$(BIN)/python benchmarks/accuracy.py bench/box300.zarr --minutes 3
	$(BIN)/python benchmarks/dense.py train
	$(BIN)/python benchmarks/dense.py predict bench/box300.zarr --radius default 4 --rounds 3

clean:
	rm -rf $(VENV) demo bench build *.egg-info
