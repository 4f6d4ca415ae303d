# make train   LeNet-5 on MNIST, with everything set up in .venv
# make test    all tests but the slow ones
# make parity  those, and the networks against torchvision, timm and Keras
# make lint    ruff

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN = .venv/bin

.PHONY: train test parity lint setup clean

train: .venv/installed
	$(BIN)/python main.py --config=configs/lenet5.py --workdir=runs/lenet5

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow"

parity: .venv/installed-parity
	$(BIN)/python -m pytest -n 2 -m "slow or parity"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup: .venv/installed-dev

.venv/installed: requirements.txt kernels/native.py $(wildcard kernels/*.cc kernels/*.h)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 13) or \
	  sys.exit(f"Python 3.11 or 3.12 is needed, not {v[0]}.{v[1]}: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m kernels.native  # where there is a C++ compiler
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# torch first: torchvision and timm would resolve another build of it.
.venv/installed-parity: requirements-parity.txt requirements-exchange.txt .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -r requirements-parity.txt -r requirements-exchange.txt
	touch $@

clean:
	rm -rf .venv
