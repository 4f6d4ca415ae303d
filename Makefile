# make train   LeNet-5 on MNIST, with everything set up in .venv
# make setup   .venv with all that make test needs; make clean deletes it
# make test    the fast tests
# make parity  the slow tests, and the networks against torchvision, timm and Keras
# make lint    ruff
# make slurm-test  a sweep on a SLURM of this machine alone; needs root on Debian
# make browser-test  the demo's page in Chromium; needs root on Debian
# make sanitize  the C++ kernels' tests with the address and undefined-behaviour sanitizers

# ensurepip is what Debian leaves to python3-venv.
SUITS = -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'
PYTHON ?= $(shell for v in 3 3.11 3.12 3.13 3.14; do \
  python$$v $(SUITS) 2>/dev/null && command -v python$$v && break; done)
BIN = .venv/bin
HAS_PIP = $(BIN)/python -m pip --version >/dev/null 2>&1
# A worker takes tests that stand together, whose programs it then compiles once.
PYTEST = $(BIN)/python -m pytest -n 2 --dist=worksteal

.PHONY: train test parity slurm-test browser-test lint sanitize setup clean

train: .venv/installed
	$(BIN)/python main.py --config=configs/lenet5.py --workdir=runs/lenet5

test: .venv/installed-dev
	$(PYTEST) -m "not slow and not slurm and not browser"

parity: .venv/installed-parity
	$(PYTEST) -m "slow or parity"

slurm-test: .venv/installed-dev
	command -v slurmctld >/dev/null && command -v slurmd >/dev/null \
	  && command -v munged >/dev/null || (apt-get update -qq && \
	  apt-get install -qq --no-install-recommends slurmctld slurmd slurm-client munge)
	$(BIN)/python -m pytest -s -rs -m slurm tests/slurm

browser-test: .venv/installed-browser
	command -v chromedriver >/dev/null || (apt-get update -qq && \
	  apt-get install -qq --no-install-recommends chromium chromium-driver)
	$(BIN)/python -m pytest -s -rs -m browser tests/demo

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The library has another name, so the normal one stays as it is. Python leaks by design.
sanitize: .venv/installed-dev
	CXX=c++ CONVNETS_SANITIZE=address,undefined ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$(foreach l,asan ubsan stdc++,$(shell c++ -print-file-name=lib$(l).so))" \
	  $(BIN)/python -m pytest -s -k "not building" tests/kernels/native_test.py

setup: .venv/installed-dev

KERNELS = $(addprefix kernels/,native.py onednn.py onednn_check.py processor.py) \
  $(wildcard kernels/*.cc kernels/*.h)

.venv/installed: requirements.txt $(KERNELS)
	@$(HAS_PIP) || $(or $(PYTHON),python3) $(SUITS) 2>/dev/null || { echo "Python 3.11 to 3.14" \
	  "with ensurepip (Debian: python3-venv) is needed, not $(or $(PYTHON),python3):" \
	  "make PYTHON=..." >&2; exit 1; }
	$(HAS_PIP) || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m kernels.native  # builds where there is a C++ compiler
	touch $@

.venv/installed-dev: requirements-dev.txt requirements-demo.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# torch first: torchvision and timm would resolve another build of it.
.venv/installed-parity: requirements-parity.txt requirements-exchange.txt \
  requirements-prepare.txt .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -r requirements-parity.txt -r requirements-exchange.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-prepare.txt
	touch $@

.venv/installed-browser: requirements-browser.txt .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

clean:
	rm -rf .venv
