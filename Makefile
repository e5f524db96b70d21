# make help lists what there is to type. Everything runs in .venv, which this file alone makes.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
READY := .venv/.ready
# DVC starts each stage as `python -m stages.<name>`: with this it is the environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Python keeps compiled modules: every stage and every test starts processes that import the same ones.
unexport PYTHONDONTWRITEBYTECODE

# Books come from this folder where it is there, laid out like Project Gutenberg's site, else from the internet.
MIRROR := $(abspath ../shared/gutenberg)
ifneq ($(wildcard $(MIRROR)),)
export CHARLM_GUTENBERG_MIRROR ?= $(MIRROR)
endif

.PHONY: help repro verify test exactness bench screenshots notebook check format ladder deps lock clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

repro: $(READY)  ## run the pipeline on the book and print the result
	dvc repro
	@python -m charlm.summary

verify: $(READY)  ## reproduce the committed result and compare every byte with dvc.lock
	python -m charlm.provenance.reproduction

test: $(READY)  ## run every test, without the internet
	@# A part of their time the tests wait, for servers and for processes: half as many again as there are cores.
	python -m pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2)) --dist loadgroup

exactness: $(READY)  ## train every model on every kind of machine that this one can be, and compare all bits
	python -m tests.every_process --grid docs/exactness.md

bench: .venv/bench/.ready  ## measure charlm beside the notebook and write docs/benchmarks.md
	PYTHONPATH=$(CURDIR)/.venv/bench python -m benchmarks
	python -m benchmarks --gpt
	python -m benchmarks.cost
	python -m benchmarks --growth 1,10,100,1000

screenshots: $(READY)  ## write the pictures of the UI in docs/images; needs Chromium
	python -m pytest tests/test_ui.py --screenshots docs/images --timeout 1800

notebook: $(READY)  ## run docs/walkthrough.ipynb and store its outputs in it
	python -m tests.walkthrough

check: $(READY)  ## format, lint and types, as CI checks them
	ruff format --check .
	ruff check .
	mypy

ladder: $(READY)  ## run every recipe on the book and write the table in README.md
	python -m benchmarks.ladder

deps: $(READY)  ## write the code that each stage depends on to dvc.yaml
	python -m tests.code_deps

format: $(READY)  ## fix what ruff can fix
	ruff format .
	ruff check --fix .

lock: $(READY)  ## pin every package in requirements.lock
	CUSTOM_COMPILE_COMMAND="make lock" pip-compile --quiet --extra dev --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml
	@# The CPU build of a wheel has a version of its own, which package indexes do not list.
	sed -i.bak 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements.lock && rm requirements.lock.bak

clean:  ## remove the environment (results, runs and DVC's cache stay)
	rm -rf .venv

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
		f"charlm needs Python 3.11 or newer; $(PYTHON) is {v}. Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@# Upgrade pip first: the one that Python 3.11 brings takes half a minute longer to choose the same packages.
	$(INSTALL) "$$(grep '^pip==' requirements.lock)"
	@# Python compiles a module when it is first imported. Most of the 17,000 never are; compiling all takes a minute.
	$(INSTALL) --no-compile --requirement requirements.lock
	@# setuptools warns that a folder here has the package's name; that folder is the package.
	PYTHONWARNINGS='ignore:Editable installation' $(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# Lightning has a folder of its own: what is installed beside charlm is part of every run's record.
.venv/bench/.ready: $(READY) benchmarks/requirements.lock
	$(INSTALL) --upgrade --no-deps --target .venv/bench --requirement benchmarks/requirements.lock
	@touch $@
