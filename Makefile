# Everything below sets itself up: a virtual environment in .venv with the versions of constraints.txt.
# Your own build of torch: make ... PIP_FLAGS="--index-url ..." (see README), or fill .venv yourself.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP_FLAGS ?=
GPU_PYTHON ?= python3
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: report test test-slow test-gpu test-netns test-slurm lint mutation setup clean

report: setup  ## Calibrate, run experiments/01_which_road, write reports/01_which_road/index.html
	$(RUN)/python experiments/01_which_road/run.py

test: lint  ## Everything that runs in minutes
	$(RUN)/pytest -q -m "not slow and not netns and not slurm" -n 2 --dist worksteal

test-slow: setup  ## What takes longer, or a device that most machines lack
	$(RUN)/pytest -q -m "slow or gpu"

test-netns: setup  ## Real runs over links of 200 Mbit/s between network namespaces: needs root, and installs iproute2
	@command -v tc > /dev/null || PATH=$$PATH:/usr/sbin command -v tc > /dev/null || $(SUDO) apt-get install --yes iproute2
	$(SUDO) env PATH="$$PATH:/usr/sbin:/sbin" $(RUN)/pytest -q -m netns -rs -p no:cacheprovider tests/netns

test-slurm: setup  ## Runs in Slurm, two nodes on this machine: needs root, and installs Debian's Slurm
	@command -v slurmd > /dev/null || PATH=$$PATH:/usr/sbin command -v slurmd > /dev/null || $(SUDO) apt-get install --yes --no-install-recommends slurmctld slurmd slurm-client munge
	$(RUN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[slurm]'
	$(SUDO) env PATH="$$PATH:/usr/sbin:/sbin" $(RUN)/pytest -q -m slurm -rs -p no:cacheprovider

test-gpu:  ## On this machine's GPUs, in an environment of your own (GPU_PYTHON) with torch, simpy, hydra-core, pandas, plotly, pytest
	PYTHONPATH=. $(GPU_PYTHON) -m pytest -q -m gpu -rs -W default -W ignore::pytest.PytestConfigWarning tests/gpu

mutation: setup  ## Small mistakes made on purpose: how many of a sample do quick tests notice? Some 30 minutes
	$(RUN)/python tests/mutation/mutate.py

lint: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "distsim needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev,browser]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
