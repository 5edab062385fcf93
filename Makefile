# Each target first sets up what it needs: system packages, Python environment, libtorch, configuration, build.
# Run again, it does only what changed. Variables, on the command line or in the environment:
#   Torch_DIR, CMAKE_PREFIX_PATH   a libtorch of your own; without one, the PyTorch wheel is installed in build/venv
#   TORCH_SPEC, TORCH_INDEX_URL    another wheel or index, such as TORCH_SPEC=torch==2.13.0+cpu
#   PYTHON, JOBS, CMAKE_ARGS       the interpreter; compilers at once; more for CMake
#   SYSTEM_PACKAGES=no             leave the system's packages alone
#   PREFIX                         where `make install` installs
PREFIX ?= /usr/local
python := build/venv/bin/python

.NOTPARALLEL:
.PHONY: help build demo test examples bench reference format check sanitize adapters_asan adapters_tsan asan ubsan tsan install clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z ]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

build:  ## the command, build/lora
	@tools/setup/build.sh release lora_cli
	@ln -sfn release/src/cli/lora build/lora

demo: build  ## show what the command does
	@bash tools/demo.sh

test: build  ## build and run every test
	@tools/setup/python.sh reference
	@tools/setup/build.sh release
	@ctest --test-dir build/release --output-on-failure --parallel 2

examples: build  ## build and run the examples alone
	@tools/setup/build.sh release
	@ctest --test-dir build/release --output-on-failure -L example

bench: build  ## measure, beside the reference
	@tools/setup/python.sh reference
	@tools/setup/build.sh release
	@bash bench/run.sh

reference:  ## make the reference data in tests/data anew
	@tools/setup/packages.sh
	@tools/setup/python.sh reference
	@set -e; for script in $(sort $(wildcard tools/reference/make_*.py)); do echo "$$script"; $(python) $$script; done

format:  ## format the C++ files
	@tools/setup/packages.sh
	@tools/format.sh

check:  ## check the format, the order of the folders and the documents
	@tools/setup/packages.sh
	@tools/format.sh --check
	@python3 tools/check_folders.py
	@python3 tools/docs/check_documents.py

sanitize: adapters_asan adapters_tsan  ## what concerns adapters and threads, under both sanitizers

# Those tests alone, which need no reference: the whole suites take several times as long. Under the thread sanitizer,
# those that have threads of their own.
suites_asan := nn|kinds|adapters|loaders|pipelines
suites_tsan := nn|pipelines
adapters_asan adapters_tsan: adapters_%:
	@tools/setup/build.sh $* $(addprefix test_,$(subst |, ,$(suites_$*)))
	@ctest --test-dir build/$* --output-on-failure --parallel 2 -R '^($(suites_$*))(_[1-4])?$$'

asan ubsan tsan:  ## build with that sanitizer and run the tests
	@tools/setup/python.sh reference
	@tools/setup/build.sh $@
	@ctest --test-dir build/$@ --output-on-failure

install: build  ## install the library and the command into PREFIX
	@tools/setup/build.sh release lora lora_base lora_pages
	@cmake --install build/release --prefix $(PREFIX)

clean:  ## remove all that was built, the Python environment included
	@rm -rf build
