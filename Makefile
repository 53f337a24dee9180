# Everything a developer types. `make demo` and `make test` need nothing but Python 3.11+ and PyPI.
PYTHON ?= python3
BIN := .venv/bin
# Two workers of one thread finish the tests sooner than one worker of two.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
PATHS := prune heal eval recipes tests bench
# The tests of what `make coverage` counts.
ARITHMETIC := $(addprefix tests/eval/,answers billing depth/contrasting depth/similarity depth/test_choosing.py \
	depth/test_pairing.py gains/test_arithmetic.py limits questions) \
	$(addprefix tests/heal/,budget ranking/findings ranking/test_procedures.py training/test_curve.py training/test_defaults.py training/test_schedule.py) \
	$(addprefix tests/prune/,checkpoint/test_checkpoint.py choosing common instruments/test_scores.py models/memory \
	models/test_at_once.py scanning/test_angles.py scanning/test_cka.py scanning/test_scan.py)

.PHONY: help install sample demo test test-all test-avx2 test-floor test-vllm coverage families formats docs lint audit bench bench-all bench-peers check-world clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# $(call venv,CONSTRAINTS,EXTRAS): make the environment that holds the target, and install the project into it.
# torch first, alone: a plain resolution with the others may take a build with gigabytes of CUDA beside it.
define venv
@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --quiet --constraint $(1) torch
$(@D)/bin/python -m pip install --quiet --constraint $(1) --editable '.[$(2)]'
@touch $@
endef

.venv/.installed: pyproject.toml constraints.txt
	$(call venv,constraints.txt,dev)

.venv-floor/.installed: pyproject.toml constraints-floor.txt
	$(call venv,constraints-floor.txt,test)

install: .venv/.installed ## make .venv and install the project, pinned by constraints.txt

sample: install ## make .sample/: the real model, questions and prose that all else stands on
	@$(BIN)/python -m recipes.sample

demo: sample ## scan, cut, patch, heal and compare the sample model; results under runs/demo
	@$(BIN)/recipe run demo

test: sample ## run the tests, but for the slow ones
	$(PYTEST) -m 'not slow'

test-all: sample ## run all tests
	$(PYTEST)

test-avx2: sample ## run the tests of `test` as a CPU without AVX-512 runs them
	$(PYTEST) -m 'not slow' --avx2

test-floor: .venv-floor/.installed sample ## run the tests, but for the slow ones, on the oldest versions allowed
	$(PYTEST:.venv/%=.venv-floor/%) -m 'not slow'

.venv-vllm/.installed: tests/support/vllm_venv.py tests/support/vllm_requirements.txt pyproject.toml
	$(PYTHON) tests/support/vllm_venv.py
	@touch $@

test-vllm: .venv-vllm/.installed sample ## make .venv-vllm/ with vLLM for the CPU, and test the models it serves
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest tests/eval/asking/test_vllm.py

coverage: sample ## count which lines of the pure arithmetic (pyproject.toml names it) the tests reach: 95 % at least
	$(PYTEST) -m 'not slow' --cov --cov-report=term-missing $(ARITHMETIC)

families: install ## judge every family of transformers anew and write docs/families.md
	$(BIN)/python -m tests.support.verdicts

formats: install ## write docs/formats.md, made of the artefacts' classes
	$(BIN)/python -m tests.support.formats

.venv-docs/.installed: pyproject.toml
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet 'mkdocs-material>=9.5'
	@touch $@

docs: .venv-docs/.installed ## build the documents as a site under build/site, every link checked
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

lint: install ## check style, formatting and types
	$(BIN)/ruff check $(PATHS)
	$(BIN)/ruff format --check $(PATHS)
	$(BIN)/mypy

.venv-audit/.installed:
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet 'pip-audit==2.10.1'
	@touch $@

audit: .venv-audit/.installed ## ask PyPI for known weaknesses of the pinned packages; one that cannot be looked up fails
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

bench: sample ## measure what a cut, a scan, a choice and a step of healing cost: about 20 minutes
	$(BIN)/python bench/cut.py --size 3GB --repeats 1
	$(BIN)/python bench/scan.py --samples 16 --rounds 3
	$(BIN)/python bench/scan_out_of_core.py --tokens 512
	$(BIN)/python bench/choice.py --sizes 4 8 --tokens 1024 --samples 64 --greedy 0
	$(BIN)/python bench/heal_speed.py --bits 16 --batch-size 2 --steps 3 --rounds 1
	$(BIN)/python bench/budget.py --cases 0 5
	$(BIN)/python bench/heads.py --lengths 350 --needles 8 --depths 3 --rounds 2

bench-all: sample ## run every measurement in bench/ at full size: many hours on a CPU
	@for one in $(filter-out bench/gpu.py,$(wildcard bench/*.py)); do echo "== $$one"; $(BIN)/python $$one || exit 1; done
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then $(BIN)/python bench/gpu.py; fi

bench-peers: sample ## measure other tools beside this one; results and table under bench/results
	$(BIN)/python -m bench.peers

check-world: sample ## check that other tools load, run, serve, convert and quantise what Regrowth writes
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest tests/world --world

clean: ## remove what runs and tools left (not .venv, .venv-floor, .sample)
	rm -rf runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
