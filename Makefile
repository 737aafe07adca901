# The two commands are `make test` and `make book`. They need python3 (3.11 to 3.13) and make, and put the rest into .venv.

PYTHON ?= python3
SCALE ?= quick
SEEDS ?= 5
COUNT ?= 300
BUDGET ?=
PLAN ?=
SEED ?= 0
MODULE ?=
PORT ?= 8000
NAME ?=

BIN := .venv/bin
INSTALLED := .venv/.installed

.DELETE_ON_ERROR:
.PHONY: help book test test-newest paper environment check unit chapters times mutants site serve chapter record claims data lock clean

help:
	@echo "make book                          run what has changed, build the pages, say where they are"
	@echo "make test                          format, types, unit tests, every chapter at quick scale, the pages"
	@echo "make test-newest PYTHON=python3.13            the unit tests on the newest JAX, with Python 3.12 or later"
	@echo "make serve [PORT=8000]             show the built pages at http://localhost:8000"
	@echo "make chapter NAME=figure_3 [SCALE=paper]      run one chapter"
	@echo "make paper [NAME=figure_3] [BUDGET=60] [PLAN=1]       the paper's own sizes, so many minutes at a time; it goes on where it was"
	@echo "make times                         what each chapter costs, in units that a slow machine does not change"
	@echo "make mutants [COUNT=300] [SEED=0] [MODULE=lib/data/span.py]      faults in the library, one at a time: do the tests notice?"
	@echo "make claims [NAME=figure_3] [SEEDS=5] [SCALE=quick]      rerun over seeds and record the intervals"
	@echo "make record [NAME=figure_3] [SCALE=paper]     keep results in book/results"
	@echo "make data                          fetch and verify the complete MNIST and CIFAR-10"
	@echo "make lock                          pin the requirements anew (needs uv)"
	@echo "make clean                         remove what was built"

book: site
	@echo "The book is in _build/html: open _build/html/index.html, or run 'make serve'."

# The chapters that fail here are named, with their errors, by the tests that follow.
test: check unit
	@$(BIN)/python -m tools.chapters || true
	$(BIN)/python -m pytest -q tests/test_chapters.py tests/test_long_runs.py
	@$(MAKE) --no-print-directory site
	$(BIN)/python -m pytest -q tests/test_site.py
	@$(BIN)/python -m benchmarks.chapters --total || true

environment: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "This book needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d. Name another: make PYTHON=python3.11 ..." % v)'
	@echo "Installing the environment into .venv (about a minute, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-cache
	$(BIN)/basedpyright
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

unit: $(INSTALLED)
	@$(BIN)/python -m tools.unit

test-newest:
	@$(PYTHON) -m tools.newest_jax

chapters: $(INSTALLED)
	@$(BIN)/python -m tools.chapters --scale $(SCALE)

times: chapters
	@$(BIN)/python -m benchmarks.chapters

mutants: $(INSTALLED)
	@$(BIN)/python -m tools.mutants --count $(COUNT) --seed $(SEED) $(MODULE)

# Sphinx reads a page once: after a failed build it would pass over the pages it has warned about. So it forgets them.
site: chapters
	@$(BIN)/jupyter-book build . -n -W --keep-going --quiet || { rm -rf _build/.doctrees; exit 1; }

serve: site
	$(BIN)/python -m http.server --directory _build/html $(PORT)

chapter: $(INSTALLED)
	@test -n "$(NAME)" || { echo "Which chapter? For example: make chapter NAME=figure_3"; exit 2; }
	@$(BIN)/python -m tools.chapters $(NAME) --scale $(SCALE)

paper: $(INSTALLED)
	@$(BIN)/python -m tools.paper $(NAME) $(if $(BUDGET),--budget $(BUDGET)) $(if $(filter-out 0 no,$(PLAN)),--plan)

claims: $(INSTALLED)
	@$(BIN)/python -m tools.results intervals $(NAME) --scale $(SCALE) --seeds $(SEEDS)

record: $(INSTALLED)
	@$(BIN)/python -m tools.results record $(NAME) --scale $(SCALE)

data: $(INSTALLED)
	$(BIN)/python -m lib.data

lock:
	uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes --fork-strategy fewest --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.txt

clean:
	rm -rf _build
