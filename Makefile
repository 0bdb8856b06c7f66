# `make run` answers the main question, `make controls` adds networks of equal size or depth, `make test` tests.
# Each sets up everything it needs in .venv. `make ui PORT=5001` serves elsewhere.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run controls test test-all lint ui dashboard clean

run: .venv/ready
	$(BIN)/python -m ablations.run num_1x1 --variants confirmatory

controls: .venv/ready
	$(BIN)/python -m ablations.run num_1x1

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: .venv/ready
	$(BIN)/python -m pytest -n 2 -m ''

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: .venv/ready
	$(BIN)/python -m ablations.commands ui --port $(or $(PORT),5000)

dashboard: .venv/ready
	$(BIN)/python -m ablations.commands dashboard --port $(or $(PORT),8080)

# torch is pinned here and installed in the same call as all that needs it, so that no second build of it is fetched.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.*' 'torchvision==0.28.*' -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
