# One virtual environment, .venv, made on first use; every target needs only Python 3.11 and make.

PYTHON  ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p))))
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check
OTHERS  := .venv-integrations

.DEFAULT_GOAL := help
.PHONY: help demo test integrations nightly lint format types imports docs notebooks docs-check check build package-test clean

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.for-users ## Train, prune and compare a small network, in under two minutes
	$(BIN)/mipp demo

# small tensors: one thread in each of two processes beats two threads in one
test: export OMP_NUM_THREADS ?= 1
# commands that tests start in new processes do not compile the package again
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.for-developers ## All tests; WORKERS=n runs n at a time
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# the environment sees the packages of .venv, and has the others itself
integrations: export OMP_NUM_THREADS ?= 1
integrations: export MIPP_GUIDES := 1
integrations: export PYTHONDONTWRITEBYTECODE :=
integrations: $(OTHERS)/.done ## Tests with the packages of others; guides and notebooks as written
	$(OTHERS)/bin/python -m pytest -n $(WORKERS) --dist worksteal tests/integrations
	$(BIN)/python -m pytest -n $(WORKERS) tests/docs/test_guides.py tests/docs/test_notebooks.py

nightly: export OMP_NUM_THREADS ?= 1
nightly: $(VENV)/.for-developers ## Thousands of random networks, all of the zoo, a cluster
	MIPP_NIGHTLY=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/graph tests/surgery tests/lab tests/contract/test_zoo.py tests/contract/test_golden.py

lint: $(VENV)/.for-developers ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.for-developers ## Mend style where that can be done by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.for-developers ## Types
	$(BIN)/mypy

imports: $(VENV)/.for-developers ## Who may import whom
	$(BIN)/lint-imports

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.for-developers ## The site, in site/; warnings are errors
	$(BIN)/python -m mkdocs build --strict

notebooks: $(OTHERS)/.done ## Run the notebooks and write their pages
	$(OTHERS)/bin/python scripts/write_notebooks.py

docs-check: $(VENV)/.for-developers ## Code, commands, error texts and links in the documents; the site
	$(BIN)/python scripts/check_docs.py

check: lint types imports docs-check test ## Everything that must pass before a merge

build: $(VENV)/.for-developers ## Wheel and source archive, in dist/
	$(BIN)/python -m build --outdir dist .

package-test: build ## The wheel and the archive, each installed elsewhere, run the demo there
	PYTHON="$(PYTHON)" scripts/test_package.sh dist constraints.txt

clean: ## Remove what the other targets made, the virtual environment too
	rm -rf $(VENV) $(OTHERS) site dist build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.for-users: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[report]'
	@touch $@

$(VENV)/.for-developers: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[lab,onnx,report,transformers,docs,dev]'
	@touch $@

$(OTHERS)/.done: constraints-integrations.txt $(VENV)/.for-developers
	$(PYTHON) -m venv $(OTHERS)
	purelib='import sysconfig; print(sysconfig.get_path("purelib"))' \
		&& echo "import site; site.addsitedir('$$($(BIN)/python -c "$$purelib")')" \
		> "$$($(OTHERS)/bin/python -c "$$purelib")/beside.pth"
	$(OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-integrations.txt
	@touch $@
