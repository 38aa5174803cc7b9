# Two environments: .venv (pipeline) and .venv-serving (Triton). They meet only at gRPC and at files.
SHELL := /bin/bash
PYTHON ?= python3.11
CONFIG ?= configs/movielens-100k.yaml
BIN := .venv/bin
# Processes that run the tests, whole files each: servers take free ports and folders of their own.
WORKERS ?= 2
# The CPU build, where pip finds one; on a GPU host pip takes the CUDA build of the same version.
TORCH := torch==2.13.0
CPP_STYLE := {BasedOnStyle: Google, ColumnLimit: 110}

.DEFAULT_GOAL := help
# Everything here is one thing after another: packages before what is built with them.
.NOTPARALLEL:
.PHONY: help setup native-backend run test system-packages lint bench lock images test-images clean

help: ## Show what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready .venv-serving/.ready native-backend ## Create both environments from the locks

.venv/.ready: requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install -q "$(TORCH)"
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

.venv-serving/.ready: requirements/serving.lock
	$(PYTHON) -m venv .venv-serving
	.venv-serving/bin/python -m pip install -q --no-deps --require-hashes -r requirements/serving.lock
	@touch $@

# Without a C++ compiler Triton serves through Python. What is built already costs a moment.
native-backend: .venv/.ready .venv-serving/.ready
	@$(BIN)/python -m serving.build_backend --python .venv-serving/bin/python || true

run: setup ## Take MovieLens-100K to recommendations answered by Triton
	$(BIN)/leanrec run $(CONFIG)

test: system-packages setup ## Run the tests, with real servers
	OMP_NUM_THREADS=1 OMP_THREAD_LIMIT=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

system-packages:
	tools/system-packages.sh

lint: setup ## Check style, types and prose rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --style="$(CPP_STYLE)" --dry-run --Werror serving/backends/onnxruntime/native/*.*

bench: setup ## Measure us beside a peer (NAME=...)
	$(BIN)/leanrec bench $(NAME)

lock: ## Resolve requirements/*.in into requirements/*.lock
	tools/lock.sh

images: ## Build the container images
	tools/images.sh build

test-images: setup images ## Run the images as the manifests would
	tools/policy-scan.sh
	$(BIN)/pytest -m images

clean: ## Remove environments, runs and stores
	rm -rf .venv .venv-serving .venv-checkov runs stores data .pytest_cache .ruff_cache .mypy_cache *.egg-info
