# Two commands: `make demo` and `make test`. Everything they need goes into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Reinstalled when what is compiled or declared changes; Python files are used in place.
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc -type f)

.PHONY: demo test check docs format gpu-check clean

demo: $(VENV)/installed
	$(BIN)/dream-accel distill --out runs/demo --overwrite

test: $(VENV)/installed-test
	$(BIN)/python -m pytest --cov=dream_accel --cov-report=term --cov-fail-under=90

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# The site, into site/; a link or a reference that leads nowhere is an error.
docs: $(VENV)/installed-test
	$(BIN)/mkdocs build --strict --quiet

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# On a machine with a CUDA device: the same tests there, then the self-test of every kernel under the sanitizer.
gpu-check:
	$(PYTHON) -m dream_accel
	$(PYTHON) -m pytest -q
	compute-sanitizer --tool memcheck --error-exitcode 1 $(PYTHON) -m dream_accel

clean:
	rm -rf $(VENV) build runs site dream_accel/_C*.so *.egg-info

$(VENV)/python-ready:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/python-ready $(SOURCES)
	@echo "installing dream_accel and PyTorch into $(VENV) (about 5 GB, a minute or two)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(BIN)/python -c 'from dream_accel import _native; print("dream_accel:", _native.describe())'
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,docs]"
	@touch $@
