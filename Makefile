# `make` lists what there is to type. Each target first makes .venv, if it is not there and up to
# date; PYTHON=... names the Python to make it with.

BIN := .venv/bin
STAMP := .venv/.installed
# Fetches the same files as pip from the same registry, in a tenth of the time.
UV := $(BIN)/uv pip install --python $(BIN)/python --no-progress --no-deps
# pip is there to install uv, and reads its own lines of the lock.
PIP := PIP_USER=0 $(BIN)/python -I -m pip --disable-pip-version-check install --progress-bar off --no-deps
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# Hundreds of processes import the same modules: let the first one keep them compiled.
unexport PYTHONDONTWRITEBYTECODE

# Each of these is run, not only looked up: version managers leave stubs that exist and fail.
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3 $(wildcard $(HOME)/.pyenv/versions/3.1[12].*/bin/python))
FITS := import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
define FIND_PYTHON
for python in $(PYTHONS) none; do \
    if "$$python" -c '$(FITS)' >/dev/null 2>&1; then break; fi; \
done; \
if [ "$$python" = none ]; then \
    echo "No Python 3.11 or 3.12 with venv among $(PYTHONS): install one or name it, make PYTHON=..." >&2; \
    exit 1; \
fi
endef

# Targets given together run one after the other: they share two cores and one build folder.
.NOTPARALLEL:
.PHONY: help install book test test-all test-fast check pytest format lock clean

help: ## what can be typed here
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 16

book: install ## run every notebook and build the book; its address is the last line
	@$(BIN)/threeregime book

test: check pytest ## check format, lint, types and imports, run the tests

test-all: check ## as `make test`, with every case of the exhaustive tests, and measure coverage
	@$(PYTEST) --cov

test-fast: install ## run the tests without a browser, notebooks, a cluster and slow training
	@$(PYTEST) -m "not slow and not browser and not notebook and not cluster and not exhaustive" tests

check: install ## of `make test`, the format, the lint, the types and the imports alone
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

pytest: install ## of `make test`, the tests alone
	@$(PYTEST) -m "not exhaustive"

format: install ## put the code into the form that `make test` asks for
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

install: $(STAMP) ## make .venv as requirements.lock says

# Commands carry the path of their .venv: in a folder that was moved they are dead.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

# The stamp is written last, and holds the folder. Without it an installation was cut off, perhaps
# within a package that would now be taken for whole: .venv is made anew. After a failure the stamp is
# old: the next call goes on where it was.
$(STAMP): requirements.lock pyproject.toml
	@if [ "$$(cat $@ 2>/dev/null)" != "$(CURDIR)" ]; then \
	    $(FIND_PYTHON); \
	    echo "Installing into .venv; the first time takes 6 GB and, with a fast network, a minute"; \
	    "$$python" -m venv --clear .venv || exit 1; \
	fi; \
	rm -f $@; \
	if sed -n '/^uv==/,/^    #/p' requirements.lock | \
	        $(PIP) --require-hashes -r /dev/stdin >.venv/install.log 2>&1 && \
	    $(UV) --require-hashes -r requirements.lock >>.venv/install.log 2>&1 && \
	    $(UV) --no-build-isolation -e . >>.venv/install.log 2>&1; then \
	    echo "$(CURDIR)" >$@; \
	else \
	    echo "$(CURDIR)" >$@; touch -t 200001010000 $@; \
	    tail -n 25 .venv/install.log >&2; \
	    echo "The installation failed: the whole log is .venv/install.log" >&2; \
	    exit 1; \
	fi

# docopt: num2words needs it for its command alone, and it has to be built. rfc3987-syntax and its lark:
# jsonschema compiles a grammar with them at every start, two seconds, to check addresses that no
# notebook has.
lock: ## rewrite requirements.lock after a change of requirements.txt
	@$(FIND_PYTHON); dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	"$$python" -m venv "$$dir" && "$$dir/bin/pip" --quiet install "$$(grep '^uv==' requirements.txt)" && \
	"$$dir/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-package docopt --no-emit-package rfc3987-syntax --no-emit-package lark \
	    --custom-compile-command "make lock" requirements.txt --output-file requirements.lock

clean: ## remove .venv, the built book and every cache
	@rm -rf .venv book/_build .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
