# make demo   sets everything up and runs the main job: real SDK calls, priced, stored, shown, alerted
# make test   sets everything up and runs the tests
# Both say what they do. Nothing outside this folder is touched but package caches.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

# Without byte code a collector's start takes three times as long, and every process of a test compiles what it loads anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo once test check format matrix wheel torture delivery crashes bench clean
help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install from the project's own files

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "tallystick needs Python 3.11 or newer and found none; on Debian: apt-get install python3 python3-venv"; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
		echo "==> making $(VENV) with uv ($(PYTHON))"; \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && echo "==> installing tallystick[all] and the dev group" && \
		uv pip install --quiet --compile-bytecode --python $(PY) -e '.[all]' --group dev; \
	else \
		echo "==> making $(VENV) with venv + pip ($(PYTHON))"; \
		$(PYTHON) -m venv $(VENV) && $(PY) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' && \
		echo "==> installing tallystick[all] and the dev group" && \
		$(PY) -m pip install --quiet --disable-pip-version-check -e '.[all]' --group dev; \
	fi
	@touch $(STAMP)

demo: setup ## the main job, live: ctrl-C ends it
	@$(VENV)/bin/tallystick demo

once: setup ## one round of the demo; exits 0 when ledger = invoice
	@$(VENV)/bin/tallystick demo --once

test: setup check ## lint, types, import contracts, tests
	@echo "==> tests"
	@$(PY) -m pytest -n auto

check: setup ## lint, types, import contracts
	@echo "==> ruff, mypy, import contracts"
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: setup ## let ruff mend what it can
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .

matrix: setup ## the instrumentation over six lines of SDK versions (LINES="L1 L6" for some)
	@$(PY) tests/matrix.py $(LINES)

wheel: setup ## build the wheel, install it without extras beside nothing else, and use it
	@rm -rf dist && $(PY) -m pip --version >/dev/null 2>&1 && BUILD="$(PY) -m pip wheel --quiet --no-deps -w dist ." || BUILD="uv build --quiet --wheel --out-dir dist"; \
		echo "==> building the wheel" && $$BUILD
	@rm -rf dist/light && $(PYTHON) -m venv dist/light && dist/light/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	@echo "==> the wheel, installed without extras" && $(PY) tests/light.py dist/light/bin/tallystick

interleavings: setup ## every order of events of a few workers and one budget; and three broken rules, found out
	@$(PY) tests/model/interleavings.py

frameworks: setup ## frameworks and other vendors' instrumentation beside ours (NAMES="litellm otel" for some)
	@$(PY) tests/frameworks/run.py $(NAMES)

torture: setup ## hard budgets under kills, lost answers and storms: 20 seeds, judged by the provider's bill (ARGS="--seeds 2")
	@$(PY) tests/torture/torture.py $(ARGS)

delivery: setup ## alerts under an outage, a kill, a lost answer, 429, a hang, a drip, HTML, a redirect, 410 ...: one line each
	@$(PY) -m pytest -v -n 0 --no-header --tb=short tests/alerts/test_deliver.py tests/collector/test_alerting.py tests/collector/test_slack_bot.py
	@echo "==> 20 kills of a collector around the sending of its alerts" && $(PY) tests/torture/deliveries.py $(ARGS)

crashes: setup ## kills of a collector under load, 200 of them; prints what was lost or stored twice (ARGS="--kills 20")
	@$(PY) tests/torture/crashes.py $(ARGS)

bench: setup ## the benchmarks; reported, never gated
	@for b in bench/*.py; do echo "==> $$b"; $(PY) $$b; done

clean: ## remove what setup made
	rm -rf $(VENV) .matrix dist artifacts
