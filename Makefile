PYTHON ?= python3
# A CPU-only torch: make demo TORCH_INDEX=<index URL that pytorch.org shows for Linux, pip, CPU>
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check format bench clean

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --constraint constraints.txt --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/ionstore simulate demo/sim --redshift 8.397 --redshift 7.305
	$(BIN)/ionstore ingest demo/sim demo/cubes.zarr
	$(BIN)/ionstore view demo/cubes.zarr --field xhii --redshift 8.397 -o demo/slice.png
	$(BIN)/ionmodel train --store demo/cubes.zarr --run demo/run

test: $(VENV)/installed
	$(BIN)/python -m pytest

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo build *.egg-info
