# `make demo` labels real sentences with a real model; `make test` runs every test. Each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test consumers check bench fuzz record lock audit clean
demo: $(INSTALLED)
	$(BIN)/icm-api demo

test: $(INSTALLED)
	$(BIN)/icm-api local fetch
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The exports, read by the code of those that train on them and review them; torch is what makes this one large.
CONSUMERS := .consumers
consumers:
	$(PYTHON) -m venv $(CONSUMERS)
	$(CONSUMERS)/bin/python -m pip install --quiet --editable '.[dev,consumers]'
	$(CONSUMERS)/bin/python -m pytest tests/cli/test_export.py

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory audit

bench: $(INSTALLED)
	$(BIN)/icm-api local fetch
	$(BIN)/python -m benchmarks

# Thousands of mangled inputs for every parser of outside bytes; `make test` has a hundred of each.
FUZZ_EXAMPLES ?= 3000
fuzz: $(INSTALLED)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/faults/test_fuzz.py

# What a host answers to a few questions, for the tests to play back: PROVIDER=..., MODEL=... and the host's key in the
# environment (cassettes/README.md). Never spends more than MAX_USD; PRICE=input/output where no list price is known.
MAX_USD ?= 0.05
record: $(INSTALLED)
	$(BIN)/python -m tests.recorded --provider "$(PROVIDER)" --max-usd "$(MAX_USD)" \
	  $(if $(MODEL),--model "$(MODEL)") $(if $(PRICE),--price "$(PRICE)")

# The exact versions of everything in the development environment, this package aside.
lock: $(INSTALLED)
	$(BIN)/python -m pip freeze --exclude-editable > requirements-dev.lock

# Known vulnerabilities of the locked versions: one that is found is a failure. Strict, since an index without advisories
# would otherwise pass everything; where no advisories are in reach it says so, and that nothing was audited.
AUDIT := .audit
audit:
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet pip-audit
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --requirement requirements-dev.lock > $(AUDIT)/found 2>&1; \
	  code=$$?; tail -n 40 $(AUDIT)/found; \
	  if grep -q "known vulnerabilit" $(AUDIT)/found && [ $$code -ne 0 ]; then exit 1; fi; \
	  if [ $$code -ne 0 ]; then echo "audit: no advisories in reach, so NOTHING WAS AUDITED"; fi

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[local,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(CONSUMERS) $(AUDIT) .mypy_cache .ruff_cache .pytest_cache
