# `make run` answers the main question, `make controls` adds networks of equal size or depth, `make test` tests.
# Each sets up everything it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run controls test test-all lint ui dashboard clean

run: .venv/ready
	$(BIN)/python -m ablations.run num_1x1 --variants confirmatory

controls: .venv/ready
	$(BIN)/python -m ablations.run num_1x1

test: .venv/ready
	$(BIN)/python -m pytest -n 2

test-all: .venv/ready
	$(BIN)/python -m pytest -n 2 -m ''

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: .venv/ready
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --workers 1 --host 127.0.0.1 \
		--port 5000 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///results/mlflow.db}"

dashboard: .venv/ready
	$(BIN)/optuna-dashboard --host 127.0.0.1 --port 8080 "$${OPTUNA_STORAGE:-sqlite:///results/optuna.db}"

# torch is pinned here and installed in the same call as all that needs it, so that no second build of it is fetched.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.*' 'torchvision==0.28.*' -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
