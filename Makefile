# Every target runs tools/setup.py, which makes .venv in this folder first and installs what the target needs.
# Where there is no make: python tools/setup.py demo (test, check, …) does the same.

# The first Python that is new enough; `make PYTHON=/path/to/python3 test` chooses another.
CANDIDATES = python3 python3.14 python3.13 python3.12 python3.11 python3.10 python
PYTHON ?= $(firstword $(foreach p,$(CANDIDATES),$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $(p))))

.PHONY: help demo test test-full check bench gpu wheel-check format clean

help:
	@echo 'make demo         a real sentence model through hal on every device of this machine'
	@echo 'make test         the tests, and every device judged at level smoke'
	@echo 'make test-full    the slow tests too, torch among them, and every device judged at level full'
	@echo 'make check        formatting, lint, types'
	@echo 'make bench        timings'
	@echo 'make gpu          on an NVIDIA GPU: all judged and timed, results in bench/results'
	@echo 'make wheel-check  the wheel built, installed elsewhere beside an old NumPy, and run'
	@echo 'make format       put the sources in the order that check wants'
	@echo 'make clean        remove .venv and all that was built'

demo test test-full check bench gpu wheel-check format:
	@if [ -z '$(PYTHON)' ]; then echo 'hal needs Python 3.10 or newer; none of these is: $(CANDIDATES)' >&2; exit 2; fi
	@$(PYTHON) tools/setup.py $@

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
