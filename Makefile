# make demo: trains on videos made on the spot, and shows what looking only where it matters is worth; some 8 minutes on 2 cores.
# make test: everything that is tested.
# make oldest: the same with the oldest releases that requirements.txt allows.
# make bench: how fast it is, in one table, in a few minutes.
# make faults: kills, full disks and other faults by the hundred, in some minutes (docs/FAULTS.md).
# make results: five training runs on other such videos, and whether they show what they should; an hour on 2 cores.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo results test oldest faults bench lint

demo: .venv/installed
	$(BIN)/python main_semiAMP.py --dataset toy --resume auto
	$(BIN)/python results/demo.py

results: .venv/installed
	$(BIN)/python results/toy.py --parallel 2

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

oldest:
	$(PYTHON) -m venv .oldest
	sed -En 's/^([a-z-]+)>=([0-9.]+).*/\1==\2.*/p' requirements.txt requirements-dev.txt > .oldest/requirements.txt
	.oldest/bin/python -m pip install --quiet --disable-pip-version-check -r .oldest/requirements.txt
	PYTHONWARNINGS=ignore .oldest/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

faults: .venv/installed-dev
	$(BIN)/python -m tests.faults

bench: .venv/installed
	$(BIN)/python -m benchmarks.table

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
