# Two commands: `make demo` and `make test`. Everything they need goes into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Processes that share the tests.
WORKERS ?= 2

# Reinstalled when what is compiled or declared changes; Python files are used in place.
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc -type f)

.PHONY: demo test check docs format hunt sanitize gpu-check gpu-accuracy clean

demo: $(VENV)/installed
	$(BIN)/dream-accel distill --out runs/demo --overwrite

test: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --cov=dream_accel --cov-report=term --cov-fail-under=90

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# The site, into site/; a link or a reference that leads nowhere is an error.
docs: $(VENV)/installed-test
	$(BIN)/mkdocs build --strict --quiet

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# The long forms of the tests that hunt: 50 kills, 10,000 damaged files, 1,000 outer iterations, a million images,
# thousands of drawn calls, kernels compiled for consumer GPUs as well.
hunt: $(VENV)/installed-test
	DREAM_ACCEL_HUNT=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_survive.py tests/test_bad_files.py tests/test_soak.py \
		tests/test_blocks.py tests/test_any_call.py tests/test_triton_compile.py

# The tests of the CPU kernels on a module built with the address and undefined-behaviour sanitizers.
sanitize: $(VENV)/installed-test
	PATH=$(CURDIR)/$(BIN):$$PATH OMP_NUM_THREADS=2 $(BIN)/python tools/sanitize.py

# On a machine with a CUDA device and no internet: PART=1 builds and tests, 2 measures K-Means and tiles, 3 the rest and
# runs the sanitizer, in nine minutes at most each; PART=summary sums up what is in OUT and in the folders ALSO. PYTHON is
# the one that has PyTorch, and is installed into. WHEELS is a folder of wheels of packages it may lack. CHECK takes
# further options, such as --device cpu --quick.
gpu-check:
	$(PYTHON) -m bench.kit --part $(or $(PART),all) --out $(or $(OUT),gpu-check) $(if $(WHEELS),--wheels $(WHEELS)) \
		$(if $(ALSO),--also $(ALSO)) $(CHECK)

# CIFAR-10, IPC 10, factor 2, ConvNet-3 width 128, three arms on a CUDA device: stops and saves after SECONDS, and the
# same command continues. ACCURACY takes further options, such as --data-dir or --download.
SECONDS ?= 480
gpu-accuracy:
	$(PYTHON) -m dream_accel bench accuracy --device cuda --dataset cifar10 --ipc 10 \
		--at 0,20,40,80,120,160,200,400,600,800,1000 --seeds 1 --eval-networks 1 --seconds $(SECONDS) \
		--out runs/gpu-accuracy/cifar10-ipc10.csv $(ACCURACY)

clean:
	rm -rf $(VENV) build runs site dream_accel/_C*.so *.egg-info

$(VENV)/python-ready:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/python-ready $(SOURCES)
	@echo "installing dream_accel and PyTorch into $(VENV) (about 5 GB, a minute or two)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(BIN)/python -c 'from dream_accel.backends import _native; print("dream_accel:", _native.describe())'
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,docs]"
	@touch $@
