# Two commands set everything up: `make demo` shows it, `make test` tests it. Both use the active virtual environment if
# it has torch (a CUDA build of it, say), and otherwise make .venv with the torch named in TORCH.
TORCH ?= torch==2.13.0

ifneq ($(VIRTUAL_ENV),)
  ifeq ($(shell "$(VIRTUAL_ENV)/bin/python" -c "import torch" 2>/dev/null && echo yes),yes)
    ENV := $(VIRTUAL_ENV)
  endif
endif
ENV ?= .venv
# Quoted wherever the shell sees it: an environment may lie under a path with spaces, which make itself cannot name.
PY := "$(ENV)/bin/python"
SOURCES := $(shell find csrc setup.py CMakeLists.txt pyproject.toml -type f)
# Two workers with one thread each: two cores are busy, and nobody waits for a neighbour's threads.
WHEEL_TESTS := $(addprefix tests/test_,sampler.py guidance.py cli.py shell.py metrics.py models.py)
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

.PHONY: demo test check cuda gpu wheel-test audit bench lint format clean

demo: build/ready
	@mkdir -p out
	$(PY) -m varfast compare --out out/compare.png

test: wheel-test
	$(PYTEST)

check: wheel-test
	$(PYTEST) --slow

# What a user installs: the wheel, unpacked far from the sources. The tests that go through the whole package will do;
# the kernels are the same machine code either way.
wheel-test: build/ready
	rm -rf build/wheel && mkdir -p build/wheel/site build/wheel/elsewhere
	$(PY) -m pip wheel -q --no-deps --no-build-isolation -w build/wheel .
	$(PY) -m pip install -q --no-deps --target build/wheel/site build/wheel/varfast-*.whl
	cp -r tests build/wheel/elsewhere/tests && cp pyproject.toml build/wheel/elsewhere/
	cd build/wheel/elsewhere && PYTHONPATH=../site OMP_NUM_THREADS=1 \
	  "$$(cd "$(CURDIR)" && realpath -s $(PY))" -m pytest -n 2 $(WHEEL_TESTS)

# What is uploaded: the wheel with its platform's tag, after a check that it asks for nothing newer.
WHEEL ?= $(wildcard build/wheel/varfast-*.whl)
DIST ?= dist
audit:
	PATH="$$(realpath -s "$(ENV)")/bin:$$PATH" $(PY) -m auditwheel repair "$(WHEEL)" --plat "manylinux_2_28_$$(uname -m)" --only-plat \
	  --exclude libtorch_cpu.so --exclude libc10.so --exclude libtorch_cuda.so --exclude libcudart.so.13 -w "$(DIST)"

bench: build/ready
	$(PY) -m pip install -q -c build/constraints.txt --no-build-isolation -e ".[bench]"
	$(PY) -m pytest benchmarks/bench_*.py --benchmark-only

# Compiles the CUDA library where nvcc is, with or without a GPU.
cuda: build/ready
	PATH="$$(realpath -s "$(ENV)")/bin:$$PATH" PYTHON=python .ci/cuda

# On a machine with a GPU: build, tests, compute-sanitizer, bars. Needs no network, and whatever python3 has torch.
gpu:
	[ -x $(PY) ] && own=$(PY) || own=python3; PYTHON="$${PYTHON:-$$own}" .ci/gpu

lint: build/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	"$(ENV)/bin/clang-format" --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu')

format: build/ready
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	"$(ENV)/bin/clang-format" -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu')

clean:
	rm -rf build out .venv varfast.egg-info varfast/*.so

# The environment: torch first and by itself, so that nothing else can pull in another one.
.venv/bin/python:
	python3 -m venv .venv
	.venv/bin/python -m pip install -q --upgrade pip
	.venv/bin/python -m pip install -q "$(TORCH)"

# Built and installed in place; again only when a source of the compiled part changes, or VARFAST_WERROR.
ifeq ($(ENV),.venv)
build/ready: | .venv/bin/python
endif
build/ready: $(SOURCES) build/werror.$(or $(VARFAST_WERROR),off)
	$(PY) -c "import torch; print('torch==' + torch.__version__)" > build/constraints.txt
	$(PY) -m pip install -q -c build/constraints.txt "setuptools>=77" wheel "cmake>=3.20" ninja
	$(PY) -m pip install -q -c build/constraints.txt --no-build-isolation -e ".[test,lint]"
	@touch $@

build/werror.%:
	@mkdir -p build && rm -f build/werror.* && touch $@
