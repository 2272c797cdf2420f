# make demo: a first run on videos made on the spot.   make test: everything that is tested.
# make bench: how fast it is, in one table, in a few minutes.
# make faults: kills, full disks and other faults by the hundred, in some minutes (docs/FAULTS.md).
# make results: three training runs on toy videos, and what they say of the policies.
PYTHON ?= python3
BIN := .venv/bin
TOY_RUN = $(shell $(BIN)/python -c 'from opts import TOY_DEFAULTS as t; print("log/UniAdaFocus_toy_mbv2_segment%d_e%d" % (t["num_segments"], t["epochs"]))')

.PHONY: demo results test faults bench lint

demo: .venv/installed
	$(BIN)/python main.py --dataset toy
	$(BIN)/python main.py --dataset toy --evaluate --resume $(TOY_RUN)/ckpt.best.pth.tar
	@echo "The last line is the best checkpoint on the toy validation videos. Logs and checkpoints: $(TOY_RUN)"

results: .venv/installed
	$(BIN)/python results/toy.py --parallel 2

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

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
