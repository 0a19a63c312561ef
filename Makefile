# `make` lists what there is to type. Each target first makes .venv, if it is not there and up to
# date; PYTHON=... names the Python to make it with.

UV := uv==0.13.8
BIN := .venv/bin
FIND_PYTHON = sh tools/find_python.sh "$(PYTHON)"

# Targets given together run one after the other: they share two cores and one build folder.
.NOTPARALLEL:
.PHONY: help install book test check pytest format lock clean

help: ## what can be typed here
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 16

book: install ## run every notebook and build the book; its address is the last line
	@$(BIN)/threeregime book

test: check pytest ## check format, lint, types, and run every test

check: install ## of that, the format, the lint and the types alone
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

pytest: install ## of that, the tests alone
	@$(BIN)/pytest

format: install ## put the code into the form that `make test` asks for
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

install: ## make .venv as requirements.lock says
	@python=$$($(FIND_PYTHON)) && "$$python" tools/install.py

# docopt: num2words needs it for its command alone, and it has to be built.
lock: ## rewrite requirements.lock after a change of requirements.txt
	@python=$$($(FIND_PYTHON)) && dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	if "$$python" -m venv "$$dir" && "$$dir/bin/pip" install "$(UV)" >"$$dir/log" 2>&1; then \
	    "$$dir/bin/uv" pip compile --quiet --universal --python-version 3.11 \
	        --no-emit-package docopt --custom-compile-command "make lock" requirements.txt --output-file requirements.lock; \
	else cat "$$dir/log" >&2; exit 1; fi

clean: ## remove .venv, the built book and every cache
	@rm -rf .venv book/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
