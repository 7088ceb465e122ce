# The only entry points the README names. Everything happens inside .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo up test lint stubs crds constraints clean

help: ## Show what there is to run
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch goes first and alone: with it installed, nothing after it asks for another build.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[operator,runtime]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(VENV)/.run $@

demo: $(VENV)/.run ## Bring the quickstart up, send prompts of eight kinds, print what came of it
	$(BIN)/goodspeed demo

up: $(VENV)/.run ## Bring the quickstart up and stay up
	$(BIN)/goodspeed up -f examples/quickstart.yaml

test: $(VENV)/.dev ## Lint, types, layers, then all tests, the fast ones first
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -m "not slow and not processes"
	$(BIN)/pytest -q -m "slow or processes"

lint: $(VENV)/.dev ## Lint, types and layers only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

crds: $(VENV)/.run ## Write the CustomResourceDefinition from the types
	$(BIN)/python -m goodspeed_operator.api.crd

stubs: $(VENV)/.dev ## Generate the gRPC stubs from speculation.proto
	$(BIN)/python -m goodspeed_runtime.protocol.generate

constraints: $(VENV)/.dev ## Pin what is installed now
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## Remove the virtual environment and what was built
	rm -rf $(VENV) build dist
