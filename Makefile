# Two commands set everything up: `make train` and `make test`. Each installs what it needs by .ci/install.py and no more.
# PYTHON must be 3.11 or 3.12.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := $(VENV)/.tools
WHOLE := $(VENV)/.whole
CONFIG ?= configs/tiny_sudoku.yaml
# Named and empty is another thing than not named.
INDEXES = $(if $(filter-out undefined,$(origin TORCH_CPU_INDEX)),--torch-cpu-index '$(TORCH_CPU_INDEX)') \
	$(if $(filter-out undefined,$(origin TORCH_GPU_INDEX)),--torch-gpu-index '$(TORCH_GPU_INDEX)')
# A variable as one word of a shell's line, whatever characters a path has; a leading ~/ is the home still.
quoted = $(subst '~/,~/','$(subst ','\'',$(value $(1)))')
# SET=FIELD=VALUE, or several of them, as options; a value of several words is for pyflyte itself.
changes = $(foreach change,$(value SET),--set $(call quoted,change))
# CONFIG has a default, which is of train's form and not of evaluate's.
measured = $(if $(filter-out undefined file,$(origin CONFIG)),--config $(call quoted,CONFIG))
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install train check evaluate describe champion fields test test-all test-cluster lint format bench register lock images clean clean-runs

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): constraints.txt pyproject.toml
	$(PYTHON) .ci/install.py $(VENV)
	@touch $@

$(TOOLS): constraints.txt tests/constraints.txt pyproject.toml
	$(PYTHON) .ci/install.py $(VENV) tracking dev
	@touch $(READY) $@

# Not among the tools: peft imports it in each process, which costs the quick tests two seconds every time.
$(WHOLE): constraints.txt tests/constraints.txt pyproject.toml
	$(PYTHON) .ci/install.py $(VENV) tracking quantization dev
	@touch $(READY) $(TOOLS) $@

install: ## create .venv with what training needs, and with EXTRAS of pyproject.toml, such as EXTRAS=tracking
	$(PYTHON) .ci/install.py $(VENV) $(EXTRAS)
	@touch $(READY)

train: $(READY) ## train on CONFIG, by default configs/tiny_sudoku.yaml, with other values by SET=rollout.group_size=8
	$(BIN)/pyflyte run workflows/gdsd.py train --config $(call quoted,CONFIG) $(changes)

check: $(READY) ## show what the rewards of CONFIG say of answers to some of its problems, before anything is trained, with SET as for train
	$(BIN)/pyflyte run workflows/gdsd.py check --config $(call quoted,CONFIG) $(changes)

evaluate: $(READY) ## evaluate the checkpoint folder POLICY, on the problems of CONFIG where it is given, with SET as for train
	$(if $(value POLICY),,$(error name the checkpoint folder: make evaluate POLICY=...))
	$(BIN)/pyflyte run workflows/gdsd.py evaluate --policy $(call quoted,POLICY) $(measured) $(changes)

describe: $(READY) ## say what CONFIG will need of a device, before anything is spent, with SET as for train
	$(BIN)/python -m tasks.describe $(call quoted,CONFIG) $(changes)

champion: $(READY) ## show the champion and history of the registry REGISTRY
	$(if $(value REGISTRY),,$(error name the registry: make champion REGISTRY=...))
	$(BIN)/python -m tasks.registry $(call quoted,REGISTRY)

fields: $(READY) ## write docs/fields.md, the page of every configuration's fields
	$(BIN)/python -m tasks.fields docs/fields.md

test: $(TOOLS) ## run the quick tests, on two cores
	$(PYTEST)

test-all: $(WHOLE) ## run all tests, as .ci/run does, on two cores
	$(PYTEST) -m 'not slow and not cluster and not images'

test-cluster: $(TOOLS) ## run whole executions on a stand-in Flyte backend
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m cluster -n 3 --dist loadfile tests/cluster

lint: $(TOOLS) ## check style and types, and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: $(TOOLS) ## apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(TOOLS) ## run the benchmarks and the slow learning runs
	$(BIN)/python -m pytest -m slow -s tests

register: $(READY) ## compile everything that a cluster would be given, without one
	$(BIN)/pyflyte register --dry-run --copy none --version dry-run -p gdsd -d development workflows

lock: $(TOOLS) ## write images/lock/, the hashes of what the images install; TORCH_CPU_INDEX, TORCH_GPU_INDEX
	$(BIN)/python -m tests.images.lock $(INDEXES)

images: $(TOOLS) ## build the images with docker or buildah and run tasks in each; TARGET, BASE, EXTRAS, TORCH_CPU_INDEX, TORCH_GPU_INDEX, SOURCE, REVISION, OPTIONS
	$(BIN)/python -m tests.images.build $(TARGET) $(if $(BASE),--base $(BASE)) \
		$(if $(EXTRAS),--extras "$(EXTRAS)") $(if $(OPTIONS),--options="$(OPTIONS)") $(INDEXES) \
		$(if $(SOURCE),--source '$(SOURCE)') $(if $(REVISION),--revision '$(REVISION)')
	$(BIN)/python -m pytest -q -s -m images tests/images $(if $(TARGET),-k '[$(TARGET)]')

clean: ## remove the environment and caches of the tools
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-runs: ## remove the data of local runs; what is still wanted is computed again
	@$(PYTHON) -m tasks.clean
