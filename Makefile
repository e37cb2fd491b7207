# Two commands do everything: `make demo` and `make test`. Each sets .venv up first.
BIN := .venv/bin
STAMP := .venv/.headway
RASTERIZER := $(wildcard models/render/cpu/*)

.PHONY: setup demo test test-all chaos lint bench clean

setup: $(STAMP) ## make .venv from the lock

$(STAMP): requirements.lock pyproject.toml setup.py tools/setup.sh $(RASTERIZER)
	sh tools/setup.sh
	@touch $@

demo: $(STAMP) ## captures -> shards -> training on two workers -> a head of somebody unseen
	$(BIN)/headway demo

test: $(STAMP) ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-all: $(STAMP) ## the slow ones too
	$(BIN)/python -m pytest

chaos: $(STAMP) ## kills, cuts and stops whatever a run of three hosts stands on; root on Linux
	$(BIN)/python -m pytest -m chaos -s tests/chaos

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP) ## every benchmark, one after the other; takes a while
	@for page in benchmarks/[!_]*.py; do echo "== $$page"; $(BIN)/python $$page || exit 1; done

clean: ## everything that the other targets made
	rm -rf .venv build out dist ./*.egg-info models/render/*.so
