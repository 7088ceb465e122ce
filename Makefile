# The only entry points: `make` lists them. Each installs what it needs into .venv, once.
PYTHON ?= python3
TORCH ?= torch==2.13.0
# An index with CPU builds of torch, for machines without a GPU where the default brings CUDA's libraries.
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo up venv test lint bench bench-cpu bench-rounds bench-gpu crds reference stubs constraints clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: .venv/.runtime ## One verifier, four drafters, real answers, figures in build/demo/summary.json
	@$(BIN)/goodspeed demo --filename examples/quickstart.yaml --state-dir build/demo/state

up: .venv/.runtime ## Run examples/quickstart.yaml on this machine until Ctrl-C
	@$(BIN)/goodspeed up --filename examples/quickstart.yaml --state-dir build/up

venv: .venv/.dev ## Everything for development, in .venv

# One thread of torch a worker: two workers would fight for the cores otherwise.
test: .venv/.dev lint ## Lint, then every test: fast ones first, real processes last
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto -m "not processes and not apiserver"
	@$(BIN)/python -m pytest -m "processes or apiserver"

lint: .venv/.dev ## ruff, mypy and the layers' imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: bench-cpu bench-rounds .venv/.dev ## All benchmarks that need no GPU, one after the other
	@for name in scheduler scheduler_convergence rebalancing; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

bench-cpu: .venv/.dev ## Passes and answers per second on two CPU cores, beside what else a user could run
	@$(BIN)/python benchmarks/cpu_verifier.py --json build/bench/cpu_verifier.json
	@$(BIN)/python benchmarks/cpu_end_to_end.py --json build/bench/cpu_end_to_end.json

bench-rounds: .venv/.dev ## Rounds over emulated networks: barrier and continuous, stragglers, bytes, the verifier's own cost
	@$(BIN)/python benchmarks/rounds.py --json build/bench/rounds.json

bench-gpu: .venv/.dev ## Rounds on a GPU against its memory bandwidth, answers beside what else a user could run
	@for shape in 8b 14b; do $(BIN)/python benchmarks/gpu_verifier.py --shape $$shape --json build/bench/gpu_$$shape.json || exit 1; done
	@$(BIN)/python benchmarks/gpu_drafting.py --json build/bench/gpu_drafting.json
	@for workload in smollm2 8b; do $(BIN)/python benchmarks/gpu_end_to_end.py --workload $$workload --json build/bench/gpu_end_to_end_$$workload.json || exit 1; done

crds: .venv/.dev ## Write the CRD from the API's types
	@$(BIN)/python -m goodspeed_operator.api.crd \
	  crds/goodspeedclusters.goodspeed.io.yaml charts/goodspeed/files/goodspeedclusters.goodspeed.io.yaml

reference: .venv/.dev ## Write docs/reference.md and the chart's table of values from types and values.yaml
	@$(BIN)/python -m goodspeed_operator.api.reference docs/reference.md
	@$(BIN)/python charts/readme.py

stubs: .venv/.dev ## Write the gRPC stubs from the protocol
	@$(BIN)/python -m grpc_tools.protoc \
	  -I goodspeed_runtime/protocol/generated=runtime/goodspeed_runtime/protocol \
	  --python_out=runtime --pyi_out=runtime --grpc_python_out=runtime \
	  goodspeed_runtime/protocol/generated/speculation.proto

constraints: .venv/.dev ## Pin what .venv holds now; run it after the tests have passed
	@$(PIP) freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' > constraints.txt

clean: ## Remove everything that was built, .venv included
	@rm -rf .venv build

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON); install Python 3.11 or newer, or name one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) is too old; make PYTHON=python3.12 names a newer one"; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "error: $(PYTHON) -m venv failed; is its venv package installed?"; exit 1; }

# On its own and first, so that it is this very build, whatever else asks for torch.
.venv/.torch: | .venv/bin/python
	@echo "installing $(TORCH), the largest part"
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@touch $@

.venv/.runtime: .venv/.torch pyproject.toml constraints.txt
	@echo "installing goodspeed and what it needs, about a minute"
	@$(INSTALL) --quiet --editable '.[runtime]'
	@touch $@

.venv/.dev: .venv/.runtime
	@echo "installing the development tools"
	@$(INSTALL) --quiet --editable '.[dev]'
	@touch $@
