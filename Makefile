# Two commands do everything: `make train` and `make test`. Both make the environment first.
PYTHON ?= python3
BIN := .venv/bin

.venv/installed: pyproject.toml constraints.txt CMakeLists.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[triton,test]'
	touch $@

.PHONY: train test
train: .venv/installed
	$(BIN)/selfplay-fast train spiral

test: .venv/installed
	$(BIN)/pytest
