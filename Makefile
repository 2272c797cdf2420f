# make demo: a first run on videos made on the spot.   make test: everything that is tested.
PYTHON ?= python3
BIN := .venv/bin
TOY_RUN = $(shell $(BIN)/python -c 'from opts import TOY_DEFAULTS as t; print("log/UniAdaFocus_toy_mbv2_segment%d_e%d" % (t["num_segments"], t["epochs"]))')

.PHONY: demo test lint

demo: .venv/installed
	$(BIN)/python main.py --dataset toy
	$(BIN)/python main.py --dataset toy --evaluate --resume $(TOY_RUN)/ckpt.best.pth.tar
	@echo "The last line is the best checkpoint on the toy validation videos. Logs and checkpoints: $(TOY_RUN)"

test: .venv/installed-dev
	$(BIN)/python -m pytest

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
