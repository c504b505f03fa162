# `make rehearse` and `make test` set up what they need themselves: git, make, Python >= 3.11.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Tests wait now and then, those with processes most of the time: more workers than cores.
CORES := $(shell getconf _NPROCESSORS_ONLN)
FEW := $(shell echo $$(($(CORES) + 1)))
MANY := $(shell echo $$(($(CORES) < 4 ? 2 * $(CORES) : 8)))
PYTEST := -m pytest --dist worksteal
CYCLES := 1000
SWITCH := on
# Tests start hundreds of processes; each would compile the program again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: rehearse rehearse-hosts quick test torture hosts zombies mutants model check format docs bench bench-check clean

rehearse: $(READY)  ## the main job, 5,000 devices, against the bundled simulator
	$(BIN)/bulkcert run jobs/revoke-key-compromise.toml --rehearse

rehearse-hosts: $(READY)  ## three hosts share a run; one is killed, one is stopped, the database crashes
	$(BIN)/python -m tests.hosts.rehearsal

quick: $(READY)  ## the tests of pure parts and on a virtual clock, in half a minute
	$(BIN)/python $(PYTEST) -n $(FEW) -m 'not system and not slow'

test: $(READY)  ## all tests
	$(BIN)/python $(PYTEST) -n $(MANY)

torture: $(READY)  ## seeded scenarios with every way in which a process ends
	$(BIN)/python tests/torture --seeds 1..200

hosts: $(READY)  ## everything that may happen to several hosts, in 20 minutes; SCENARIO=name for one
	$(BIN)/python -m tests.hosts $(SCENARIO)

mutants: $(READY)  ## small changes to the core that its tests must notice; ARGS=MODULE tries all of one
	$(BIN)/python tools/mutants.py $(ARGS)

zombies: $(READY)  ## hosts stopped beyond their lease and continued; CYCLES=1000 SWITCH=on, or off
	$(BIN)/python tests/hosts/zombies.py --cycles $(CYCLES) --switch $(SWITCH)

model:  ## the protocol between hosts, checked by Spin in every state; ARGS='--show switch' tells a story
	$(PYTHON) tools/model.py $(ARGS)

check: $(READY)  ## what must pass before each commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/coverage erase
	$(BIN)/coverage run $(PYTEST) -n $(MANY)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --fail-under=99

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## the generated parts of docs/, and the man page
	$(BIN)/python tools/reference.py
	$(BIN)/python tools/manpage.py

bench: $(READY)  ## the benchmark table, in a short form; nginx, parallel and curl must be there
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m benchmarks

bench-check: $(READY)  ## instructions per operation, compared with the record; needs perf or valgrind
	$(BIN)/python -m benchmarks.instructions $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name it with PYTHON=") if sys.version_info < (3, 11) else 0'
	@echo "Setting up $(VENV); this takes a minute or two."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)
