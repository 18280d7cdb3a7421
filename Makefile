# Two commands do everything: `make train` and `make test`. Both make the environment first.
PYTHON ?= python3
BIN := .venv/bin
NATIVE := CMakeLists.txt $(shell find csrc -type f)

.PHONY: train test stubs format
train: .venv/installed
	$(BIN)/selfplay-fast train spiral

test: .venv/installed
	$(BIN)/pytest

# Installed again when what an editable install does not follow has changed: metadata and C++.
.venv/installed: pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[triton,test]'
	@touch $@

# For those who change the project; needs the extra `dev`: .venv/bin/pip install -c constraints.txt -e '.[triton,test,dev]'
stubs:
	.ci/stubs selfplay_fast/_native.pyi

format:
	python .ci/places.py
	ruff check --fix . && ruff format .
	clang-format -i $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')
