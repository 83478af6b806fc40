# Every target sets up what it needs by itself: the first call creates .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

# Lightning and torch, oldest and newest that we support. The contract runs in
# both namespaces, lightning and pytorch_lightning.
MATRIX := 2.4.0+2.13.0 2.5.6+2.13.0 2.6.6+2.13.0 2.5.6+2.4.0
SMOKE := tests/test_contract.py tests/core/test_session.py tests/test_nonfinite.py

.PHONY: demo docs test check matrix clean

demo: .venv/installed
	$(BIN)/nndebug demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -W -q -b html docs build/docs

# TORCH_INDEX is where builds of torch without CUDA are, if you know of one.
.SECONDARY:
matrix: $(MATRIX:%=matrix-%)

matrix-%: .venvs/%/installed
	.venvs/$*/bin/python -m pytest -q -k "NNDebug or NonFinite or session or nonfinite" $(SMOKE)

.venvs/%/installed: pyproject.toml
	test -x .venvs/$*/bin/python || $(PYTHON) -m venv .venvs/$*
	.venvs/$*/bin/python -m pip install --quiet --disable-pip-version-check \
	    $(TORCH_INDEX:%=--extra-index-url %) \
	    lightning==$(firstword $(subst +, ,$*)) pytorch-lightning==$(firstword $(subst +, ,$*)) \
	    torch==$(lastword $(subst +, ,$*)) 'numpy<$(if $(findstring +2.4,$*),2,3)' -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venvs build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
