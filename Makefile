# Every command of the day. `make` alone lists them.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# With its bytecode kept: rewriting the asserts of all tests takes each process five seconds.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest

.DEFAULT_GOAL := help
.PHONY: help demo check check-static check-fast test soak gpu-check bench format bootstrap-demo bootstrap-test

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bootstrap-demo:
	@$(or $(PYTHON),python3) scripts/bootstrap.py demo

bootstrap-test:
	@$(or $(PYTHON),python3) scripts/bootstrap.py test

demo: bootstrap-demo ## set everything up, start the platform, go from real data to an explained prediction
	@$(BIN)/stratal demo

check: bootstrap-test ## format, lint, types, import contracts, fast tests (under 45 s)
	@$(MAKE) -s -j2 --output-sync=target check-static check-fast

check-static:
	@$(BIN)/ruff format --check -q src tests bench scripts solutions examples
	@$(BIN)/ruff check -q src tests bench scripts solutions examples
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > .lint-imports.log 2>&1 || { cat .lint-imports.log; exit 1; }; rm -f .lint-imports.log

check-fast:
	@$(PYTEST) -n 2 --dist loadfile -m fast tests/rooms tests/docs

test: check ## all tests, with a bounded sample of the long ones (under 15 min)
	@$(PYTEST) -n 2 --dist loadfile -m "not soak and not fast"

soak: bootstrap-test ## the long tests whole: thousands of kills, cuts and fuzz cases
	@$(PYTEST) -n 2 --dist worksteal -m soak --durations=0

gpu-check: ## check this machine's GPUs end to end; says so when there is none
	@$(or $(PYTHON),python3) scripts/bootstrap.py gpu
	@$(BIN)/python scripts/gpu_check.py

bench: bootstrap-test ## side-by-side measurements against named peers
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script; done

format: bootstrap-test ## let the formatter have its way
	@$(BIN)/ruff format -q src tests bench scripts solutions examples
	@$(BIN)/ruff check -q --fix src tests bench scripts solutions examples
