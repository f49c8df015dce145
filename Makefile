# Everything that is done with this project, by name.  `make` alone lists the targets.
#
# PYTHON=/path/to/python3 chooses the interpreter of the environments; any from 3.11 on will do.
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS ...) are respected.  PyPI's PyTorch for Linux
# brings several gigabytes of CUDA; point pip to the index of PyTorch's CPU builds as well and it takes that one.

PYTHON ?= $(shell scripts/find-python)
BIN := .venv/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check
BASE := .venv-base/bin/python
ORT := .venv-ort/bin/python
KERAS := .venv-keras/bin/python
OLDEST_ORT := 1.17.3

NATIVE_SOURCES := CMakeLists.txt $(shell find native -name tests -prune -o -type f -print)
CXX_FILES = $(shell find native -name '*.cpp' -o -name '*.hpp')
PACKAGE_FILES := $(shell find src -type f -not -name '*.pyc')

# What is tested without PyTorch, in an environment that has only what the base package needs.
BASE_TESTS := tests/base tests/rules tests/test_init.py tests/test_native.py tests/test_names.py tests/test_patterns.py \
    tests/test_scores.py tests/test_schedules.py tests/test_allocation.py tests/test_floor.py tests/test_metrics.py

export PIP_NO_WARN_SCRIPT_LOCATION := 1
# The models here are small: a second thread costs more than it brings, and one gives the same bits everywhere.
test test-slow test-base test-ort-oldest test-keras bench: export OMP_NUM_THREADS ?= 1
# So the cores are used by running tests side by side instead.
PYTEST := -m pytest -n auto --maxprocesses 8 --dist worksteal

.DELETE_ON_ERROR:
.PHONY: help venv native demo bench test test-slow test-all test-base native-test native-test-threads \
    native-test-arm native-test-plain test-ort-oldest test-keras fuzz lint lint-style lint-format lint-types lint-layers lint-native format docs clean FORCE

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 22

# --- the environment ---

venv: build/.native ## make .venv: the package (editable), all extras, all tools

.venv/.tools: pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) scripts/check-system
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet -c constraints.txt --group build
	@touch $@

native: build/.native ## build the changed C++ again

# An editable install knows which Python files there were, so a new or a moved one installs again as changed C++ does.
build/.native: .venv/.tools $(NATIVE_SOURCES) build/python-files
	$(PIP) install --quiet -c constraints.txt --group dev --no-build-isolation -C build-dir=build/editable -e '.[all]'
	@touch $@

build/python-files: FORCE
	@mkdir -p build
	@find src -name '*.py' | LC_ALL=C sort | cmp --silent - $@ || find src -name '*.py' | LC_ALL=C sort > $@

# --- the product ---

demo: venv ## the main job on real data: a dense model to its balance point, in runs/demo
	$(BIN)/isogrid optimize digits --max-drop 1pt --out runs/demo --force

bench: venv ## measure this machine
	@for program in benchmarks/*/run.py; do \
	    [ -e "$$program" ] || continue; \
	    echo "== $$program"; $(PY) "$$program" || exit 1; \
	done

# --- the proof ---

test: venv native-test-plain ## all tests but the slow ones, the examples in docstrings, the native tests
	$(PY) $(PYTEST) -m "not slow"

test-slow: venv ## only the slow tests
	$(PY) $(PYTEST) -m slow tests

test-all: test test-slow test-base test-ort-oldest test-keras native-test native-test-threads native-test-arm ## everything

# The wheel as a user gets it, in an environment of its own that has no PyTorch.
test-base: .venv-base/.wheel ## the base package without PyTorch
	$(BASE) -m pytest $(BASE_TESTS)
	$(BASE) scripts/time-import

.venv-base/.wheel: build/.wheel
	[ -e $(BASE) ] || $(PY) -m venv --without-pip .venv-base
	$(PIP) --python $(BASE) install --quiet -c constraints.txt --group test build/wheels/*.whl
	$(PIP) --python $(BASE) install --quiet --no-deps --force-reinstall build/wheels/*.whl
	@touch $@

build/.wheel: build/.native $(PACKAGE_FILES)
	rm -rf build/wheels
	$(PIP) wheel --quiet --no-deps --no-build-isolation -C build-dir=build/wheel -w build/wheels .
	@touch $@

# The newest runtime is the one of .venv. This one is from a time before numpy 2, and has wheels up to Python 3.12.
test-ort-oldest: .venv-ort/.wheel ## the operators in the oldest ONNX Runtime that they accept
	$(ORT) -m pytest -m "not slow" tests/runtime/test_library.py tests/runtime/test_onnxruntime_*.py

.venv-ort/.wheel: build/.wheel
	[ -e $(ORT) ] || $(PY) -m venv --without-pip .venv-ort
	grep -v -E '^(numpy|onnxruntime|ml[-_]dtypes)==' constraints.txt > build/constraints-ort.txt
	$(PIP) --python $(ORT) install --quiet -c build/constraints-ort.txt --group test \
	    'numpy<2' onnx onnxruntime==$(OLDEST_ORT) build/wheels/*.whl
	$(PIP) --python $(ORT) install --quiet --no-deps --force-reinstall build/wheels/*.whl
	@touch $@

# Keras settles on a backend when it is imported, so each backend is a run of its own; one that is missing fails.
test-keras: export TF_CPP_MIN_LOG_LEVEL := 2
test-keras: export TF_NUM_INTRAOP_THREADS := 1
test-keras: .venv-keras/.wheel ## the Keras integration on TensorFlow, PyTorch and JAX
	for backend in tensorflow torch jax; do \
	    KERAS_BACKEND=$$backend $(KERAS) -m pytest -n 2 --dist loadfile tests/integrations/keras \
	        --pyargs isogrid.integrations.keras || exit 1; \
	done

.venv-keras/.wheel: build/.wheel
	[ -e $(KERAS) ] || $(PY) -m venv --without-pip .venv-keras
	$(PIP) --python $(KERAS) install --quiet -c constraints.txt --group test --group keras build/wheels/*.whl
	$(PIP) --python $(KERAS) install --quiet --no-deps --force-reinstall build/wheels/*.whl
	@touch $@

native-test: NATIVE_BUILD := build/native-sanitized
native-test: NATIVE_OPTIONS := -DCMAKE_BUILD_TYPE=Debug -DISOGRID_SANITIZE=address,undefined
native-test: .venv/.tools ## the native tests under the address and undefined-behaviour sanitizers
	@PYTHON=$(PYTHON) scripts/check-system tests
	$(run-native-tests)

MINUTES := 10
fuzz: NATIVE_BUILD := build/native-sanitized
fuzz: NATIVE_OPTIONS := -DCMAKE_BUILD_TYPE=Debug -DISOGRID_SANITIZE=address,undefined
fuzz: .venv/.tools ## damaged packed weights under the sanitizers, for MINUTES=10
	@PYTHON=$(PYTHON) scripts/check-system tests
	$(configure-native-tests) && $(BIN)/cmake --build $(NATIVE_BUILD) --target isogrid_fuzz
	$(NATIVE_BUILD)/native/tests/isogrid_fuzz $(MINUTES) $(SEED)

native-test-threads: NATIVE_BUILD := build/native-threads
native-test-threads: NATIVE_OPTIONS := -DCMAKE_BUILD_TYPE=RelWithDebInfo -DISOGRID_SANITIZE=thread
native-test-threads: .venv/.tools ## the native tests under the thread sanitizer
	@PYTHON=$(PYTHON) scripts/check-system threads
	$(run-native-tests)

# A test that ran on this machine by mistake would pass too: the tests fail unless the kernels for ARM were among them.
native-test-arm: export ISOGRID_MUST_RUN := neon
native-test-arm: NATIVE_BUILD := build/native-arm
native-test-arm: NATIVE_OPTIONS := -DCMAKE_BUILD_TYPE=Release -DCMAKE_TOOLCHAIN_FILE=native/aarch64.cmake
native-test-arm: .venv/.tools ## the native tests compiled for 64-bit ARM, under an emulator
	@PYTHON=$(PYTHON) scripts/check-system arm
	$(run-native-tests)

# Part of `make test`, which runs without the C++ test library too, but says so.
native-test-plain: NATIVE_BUILD := build/native-plain
native-test-plain: NATIVE_OPTIONS := -DCMAKE_BUILD_TYPE=Release
native-test-plain: .venv/.tools
	@if PYTHON=$(PYTHON) scripts/check-system tests; then $(run-native-tests); \
	else echo "The native tests do not run here for want of the above."; fi

define configure-native-tests
$(BIN)/cmake -S . -B $(NATIVE_BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja --log-level=WARNING \
    -DISOGRID_PYTHON=OFF -DISOGRID_TESTS=ON -DISOGRID_DEV=ON $(NATIVE_OPTIONS)
endef

define run-native-tests
$(configure-native-tests) && \
$(BIN)/cmake --build $(NATIVE_BUILD) && $(BIN)/ctest --test-dir $(NATIVE_BUILD) --output-on-failure --no-tests=error
endef

# Five targets, so that `make -k lint` tells all that is wrong and not only what the first tool finds.
lint: lint-style lint-format lint-types lint-layers lint-native ## style, types, layers
lint-style: venv
	$(BIN)/ruff check .
lint-format: venv
	$(BIN)/ruff format --check .
lint-types: venv
	$(BIN)/mypy
lint-layers: venv
	$(BIN)/lint-imports
lint-native: venv
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: venv ## write Python and C++ in the project's style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

docs: venv ## build the documentation in site/
	$(BIN)/mkdocs build --strict

clean: ## remove all that was built, but not the runs
	rm -rf .venv .venv-base .venv-keras .venv-ort build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
