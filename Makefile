# make help shows what there is. Needed before: Python 3.11 to 3.13 and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv in an environment of its own: it makes the project's in seconds.
UV := .make/uv/bin/uv
INSTALL := VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --require-hashes

.PHONY: help
help: ## Show this
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 18

.PHONY: install
install: .make/demo ## Make the environment in .venv, with .venv/bin/si-ctl

.PHONY: demo
demo: install ## Run five iterations of guided resampling, ending with a report
	$(BIN)/si-ctl iterate --strategy gr

.PHONY: test
test: .make/test ## Run the tests
	$(BIN)/pytest -n auto --dist loadscope $(TESTS)

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

.PHONY: policy
policy: .make/demo ## Make the embedded policy and its levels again, from nothing
	$(BIN)/python -m si.embedded.make_policy
	$(BIN)/python -m si.embedded.make_levels

.PHONY: chart
chart: .make/demo ## Write the chart's schema and its README's table of values again
	$(BIN)/python helm/schema.py

.PHONY: kind
kind: ## Make a local cluster: kind, MinIO, the namespace si
	k8s/local/up

.PHONY: kind-demo
kind-demo: install ## Build the images, install the chart on it, run two iterations there
	k8s/local/demo

.PHONY: kind-down
kind-down: ## Remove the local cluster
	k8s/local/down

.PHONY: e2e
e2e: .make/test ## Run the cluster tests on it, or on the cluster that KUBECONFIG names
	tests/cluster/run

.PHONY: wheel
wheel: $(UV) ## Build the wheel in dist/
	$(UV) build --quiet --wheel --build-constraint requirements/build.txt --require-hashes

.PHONY: requirements
requirements: $(UV) ## Resolve the pinned requirement files again
	requirements/compile $(UV)

.PHONY: clean
clean: ## Remove the environment and what was built (runs stay)
	rm -rf $(VENV) .make dist

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
