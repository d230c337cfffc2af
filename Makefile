# Everything works from a fresh checkout: the first target that needs it makes .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo browser test lab gallery bench bench-scale fleet twin format build clean
N ?= 2000
SEED ?= 0

help:            ## Say what there is to make
	@sed -n 's/^\([a-z-]*:\).*## /\1 /p' $(MAKEFILE_LIST) | column -t -l 2

.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; try make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[widgets,fleet]' --group dev
	@touch $@

demo: .venv/.ready      ## Take, sum up, store and ask a family of processes
	@$(BIN)/python -m pagemap_df.demo --output demo-output

browser:                ## Install Chromium for the browser tests, where that is possible
	@command -v chromium > /dev/null \
	  || { apt-get -qq update && apt-get -qq install -y --no-install-recommends \
	       chromium fonts-dejavu-core; } > /dev/null 2>&1 \
	  || echo "no Chromium here, and none could be installed: browser tests will skip"

test: .venv/.ready browser ## Run the whole suite, linters and types included
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lab: .venv/.ready       ## Open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

gallery: .venv/.ready   ## Render the notebooks, with outputs, to gallery/
	$(BIN)/jupyter nbconvert --to html --execute --output-dir gallery notebooks/*.ipynb

bench: .venv/.ready     ## Measure what the README claims; prints ratios
	@$(BIN)/python -m compileall -q pagemap_df    # as pip did for the packages it is held against
	@$(BIN)/python -m tests.bench

bench-scale: .venv/.ready ## Large data sets, recordings, two workers; takes long
	@$(BIN)/python -m tests.bench scale_watch scale_fleet

fleet: .venv/.ready     ## Ask 24 simulated hosts on a cluster that loses a worker on the way
	@$(BIN)/python -m pagemap_df.demo_fleet

twin: .venv/.ready      ## Hold the simulator against this kernel: make twin N=2000 SEED=1, as root
	$(BIN)/pagemap-df twin --random $(N) --seed $(SEED) --keep datasets/scripts/regressions

format: .venv/.ready    ## Format and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

build: .venv/.ready     ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:                  ## Remove what the other targets made
	rm -rf .venv dist demo-output gallery .pytest_cache .mypy_cache .ruff_cache .hypothesis
