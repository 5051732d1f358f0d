# Everything a reader needs: `make book`, `make test`, `make site`, `make lab`.  Each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROFILE ?= smoke

.PHONY: help book test lint lock nbval site epub pdf lab status publish clean
help:
	@echo "make book     run every chapter (PROFILE=$(PROFILE)) and build the book"
	@echo "make test     run the tests"
	@echo "make lint     Ruff, and the order of the library's rooms"
	@echo "make site     build the book from the committed notebooks, executing nothing"
	@echo "make epub     the same book as one EPUB; make pdf prints it by Chromium"
	@echo "make lab      open the notebooks in JupyterLab"
	@echo "make nbval    re-run the committed notebooks from the committed results and compare their outputs"
	@echo "make status   say which results hold, and why others do not"
	@echo "make publish  replace the committed results and notebooks by those of the last run"

# The pins, made anew from pyproject.toml (needs uv in the environment).  CUDA's libraries come with a torch that wants them.
lock:
	@$(BIN)/python -m uv pip compile pyproject.toml --extra test --extra slurm --python-version 3.11.7 --constraint requirements.lock \
	  --no-annotate --no-header --quiet | grep -vE '^(nvidia-|cuda-|triton|setuptools|wheel)' > $(VENV)/lock
	@{ head -1 requirements.lock; cat $(VENV)/lock; } > $(VENV)/lock.new && mv $(VENV)/lock.new requirements.lock

# The environment, made anew when the pins change.  Packages come from wherever pip is set up to look.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@echo "setting up $(VENV) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock 2>$(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . 2>>$(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }
	@touch $@

book: $(READY)
	@$(BIN)/decoupled-esc run --profile $(PROFILE)

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
	@$(MAKE) --no-print-directory nbval

nbval: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval --nbval-current-env --numprocesses 2 --dist loadfile notebooks

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check src
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

site: $(READY)
	@$(BIN)/decoupled-esc site

epub pdf: $(READY)
	@$(BIN)/decoupled-esc site --format $@

lab: $(READY)
	@$(BIN)/jupyter lab notebooks

status: $(READY)
	@$(BIN)/decoupled-esc status --profile $(PROFILE)

publish: $(READY)
	@$(BIN)/decoupled-esc publish --profile $(PROFILE)

# Base models in the making are kept: they take longer than anything else, and no run of the book reads them.
clean:
	rm -rf build
	@test ! -d runs || find runs -mindepth 1 -maxdepth 1 ! -name pretraining -exec rm -rf {} +
