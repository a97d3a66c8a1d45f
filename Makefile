# Everything a newcomer needs: make demo, make test, make lint. Nothing but Python 3.11 (or 3.13), make and a package index.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Warnings of pip about its own settings are no news to whoever runs this.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: install demo test test-real test-nightly test-chaos test-gpu lint format clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: need $(PYTHON); install Python 3.11, or name another: make PYTHON=python3.13"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): about 2 GB, a few minutes the first time"
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/isnet demo $(if $(PHOTOS),--photos "$(PHOTOS)") $(ARGS)

# Three tiers. `test` and `test-real` are run on every push; `test-nightly` takes hours on two cores.
# A file stays in one process, with the fixtures that its tests share.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations 25

test: $(STAMP)
	$(PYTEST) -m "not real and not nightly and not chaos" $(ARGS)

test-real: $(STAMP)
	$(PYTEST) -m "real and not nightly and not chaos" $(ARGS)

test-nightly: $(STAMP)
	$(BIN)/python -m pytest --durations 25 -m "nightly or chaos" $(ARGS)

# Of these, kills, outages and races: the whole kill matrix, and a short soak.
test-chaos: $(STAMP)
	$(BIN)/python -m pytest --durations 25 -m chaos $(ARGS)

# On a machine with a GPU: about eight minutes, and a page of figures.
test-gpu: $(STAMP)
	$(BIN)/isnet bench gpu $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
