# Two commands on a fresh machine: `make demo` and `make test`. Everything lives in .venv; delete it to start over.

# a pipe fails where one of its commands does: pip behind a filter of its lines
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
# what the demo needs, and all that tests, linters and the documentation need beside it
DEMO_STAMP := $(VENV)/.installed-demo
STAMP := $(VENV)/.installed
# test files at a time; 0: one after the other, in one process
TEST_JOBS ?= 2
DEMO_OUT ?= $(if $(FULL),demo-out-full,demo-out)

# python3.12, then 3.11: a name on the PATH is not enough (version managers leave names that do not run)
ifeq ($(origin PYTHON), undefined)
# once: a variable that is looked up with a recursive = would run every Python again at each use
PYTHON := $(if $(wildcard $(STAMP) $(DEMO_STAMP)),$(BIN)/python,$(shell echo "Looking for Python 3.12 or 3.11 …" >&2; \
	for p in python3.12 python3.11 python3; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; \
	then echo $$p; break; fi; done))
endif

.PHONY: help env demo axe test test-slow lint format docs release-check clean

help:
	@echo "make demo         install, then the whole way on synthetic slides (10 minutes; FULL=1: an hour)"
	@echo "make test         install, then lint and the test suite"
	@echo "make test-slow    the long tests"
	@echo "make axe          what the browser tests check accessibility with (needs npm; they also need a Chromium)"
	@echo "make lint         ruff, mypy, import-linter"
	@echo "make format       ruff format and the fixes that are safe"
	@echo "make docs         the documentation as a site: build/site/index.html"
	@echo "make release-check  wheel and sdist, installed afresh, and the small demo"
	@echo "make clean        remove the environment and the caches"

env: $(STAMP)

EVERYTHING := .[dev,web]

# $(1): the package, with the extras that are wanted
define install
	@if [ -z "$(PYTHON)" ]; then \
		echo "vstain needs Python 3.12 or 3.11; neither python3.12 nor python3.11 runs here."; \
		echo "  → Debian/Ubuntu: apt-get install python3.11 python3.11-venv (or python3.12 python3.12-venv),"; \
		echo "    or name one: make demo PYTHON=/path/to/python3.12"; exit 2; fi
	@echo "1/3 Environment $(VENV), made with $(PYTHON) ($$($(PYTHON) --version))"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "This Python cannot make environments."; \
		echo "  → Debian/Ubuntu: apt-get install $$(basename $(PYTHON))-venv"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/3 Libraries (1 GB to download, some minutes): one line each"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '$(1)' \
		| sed -un -e 's/^Collecting /    /p' -e 's/^Installing collected packages.*/    installing … (one to some minutes without a line)/p' -e 's/^Successfully.*/    installed/p'
	@echo "3/3 Do the libraries load?"
	@$(BIN)/python -c 'import cv2' || { \
		echo "opencv-python is installed but cannot load: a system library is missing."; \
		echo "  → Debian/Ubuntu: apt-get install libgl1 libglib2.0-0"; exit 3; }
	@touch $@
endef

$(DEMO_STAMP): setup.cfg constraints.txt
	$(call install,.)

$(STAMP): setup.cfg constraints.txt
	$(call install,$(EVERYTHING))

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP))
	$(BIN)/vstain demo --out $(DEMO_OUT) $(if $(FULL),--full)

# axe-core checks the pages against WCAG in the browser tests, which skip that where it is missing
AXE := $(VENV)/axe/node_modules/axe-core/axe.min.js
# … and the Nu HTML checker (vnu-jar, needs Java) their HTML
VNU := $(VENV)/axe/node_modules/vnu-jar/build/dist/vnu.jar
axe: $(AXE) $(VNU)
$(AXE) $(VNU) &: $(STAMP)
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/axe axe-core@4.10.3 vnu-jar@26.9.27

test: lint
	$(BIN)/python -m pytest -m "not slow" -n $(TEST_JOBS) --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout 7200

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python tools/write_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

release-check: $(STAMP)
	PYTHON=$(BIN)/python tools/release_check.sh

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info build
