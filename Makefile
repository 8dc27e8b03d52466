# What one does with this repository. `make test` needs Python 3.11+, Chromium, Node.js with npm, and nothing else;
# it makes .venv and tests/node_modules by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Written last, and named after what was installed: an interrupted or outdated installation is repeated.
STAMP := $(VENV)/installed-dev-$(shell cat requirements.txt requirements-dev.txt | sha256sum | cut -c1-16)
NODE_STAMP := tests/node_modules/installed-$(shell cat tests/package-lock.json | sha256sum | cut -c1-16)

# Tests that measure time against a player or a crowd have the machine to themselves; the rest runs two at a time.
ALONE := $(addprefix tests/end_to_end/,test_pages.py test_steadiness.py)

.PHONY: help setup screenshots test lint types unit proofs mutants mutants-sample mangled equality bench-suite bench-overhead bench-recognition bench-chaos bench-overload bench-trim bench-memory bench-synthesis bench-idle simulate format clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

setup: $(STAMP) ## make .venv with everything that runs and tests steadyvoice

$(STAMP): requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d; set PYTHON=" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	rm -f $(VENV)/installed-dev-* && touch $@

$(NODE_STAMP): tests/package.json tests/package-lock.json
	@command -v npm >/dev/null || { echo "Node.js and npm are needed by tests/end_to_end/test_synthesis_api.py (Debian: apt-get install nodejs npm)"; exit 1; }
	npm ci --prefix tests --ignore-scripts --no-audit --no-fund --loglevel error
	touch $@

test: lint types unit $(if $(FULL),proofs,mutants-sample) ## set up, check and test everything; what .ci/run calls (FULL=1: with proofs)

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

unit: setup $(NODE_STAMP) ## every test, with real apps, a real browser and OpenAI's clients
	@command -v "$${CHROMIUM:-chromium}" >/dev/null || { echo "Chromium is needed by tests/end_to_end/test_pages.py (Debian: apt-get install chromium; or set CHROMIUM=)"; exit 1; }
	$(BIN)/python -m pytest --durations=25 --junitxml .pytest_cache/junit-two-at-a-time.xml -n 2 --dist loadfile $(addprefix --ignore ,$(ALONE))
	$(BIN)/python -m pytest --durations=25 --junitxml .pytest_cache/junit-alone.xml $(ALONE)

proofs: mutants mangled equality ## the checks that take minutes; part of `make test FULL=1`

mutants: setup ## every mutation of the scheduler and the dispatcher must be caught (ARGS=--only, --sample)
	$(BIN)/python -m tests.simulation mutants $(ARGS)

mutants-sample: setup ## five of them, chosen by the date
	$(BIN)/python -m tests.simulation mutants --sample 5

equality: setup ## 200 random segments give FunASR's tokens; the suite compares 50
	$(BIN)/python -m pytest -m proof tests/worker/recognizers/test_sensevoice_recognizer.py

mangled: setup ## two thousand mangled uploads; the suite sends three hundred
	$(BIN)/python -m pytest -m proof tests/end_to_end/test_mangled_uploads.py

bench-suite: unit ## how long the suite takes, and its slowest tests, as JSON
	$(BIN)/python bench/suite.py

bench-overhead: setup ## what the service adds to the bare engine
	$(BIN)/python bench/overhead.py

bench-recognition: setup ## SenseVoiceSmall against FunASR, sherpa-onnx and funasr-server, in .venv-peers (ARGS=--quick)
	$(BIN)/python bench/recognition.py $(ARGS)

bench-memory: setup ## memory of FunASR as it is used against ours, under hard caps, with plots (ARGS=--quick)
	$(BIN)/python bench/memory.py $(ARGS)

bench-overload: setup ## ten times more callers than there is room for
	$(BIN)/python bench/overload.py $(ARGS)

bench-synthesis: setup ## speech for 1 to 40 callers against one lock around the model, on espeak and a stand-in of IndexTTS2
	$(BIN)/python bench/synthesis.py $(ARGS)

bench-trim: setup ## what giving cached memory back costs: TRIM=always, pressure, never
	$(BIN)/python bench/trim.py $(ARGS)

bench-idle: setup ## what idle apps take of a core, with and without a worker and an open page (ARGS=--seconds)
	$(BIN)/python bench/idle.py $(ARGS)

bench-chaos: setup ## 2,000 requests while the engine breaks in every way and its worker is killed
	$(BIN)/python bench/chaos.py $(ARGS)

simulate: setup ## 5 million requests with every fault on a virtual clock, 200 seeds (SEED= replays one; REQUESTS=)
	$(BIN)/python -m tests.simulation run $(if $(SEED),--seed $(SEED)) $(if $(REQUESTS),--requests $(REQUESTS))

screenshots: setup ## pictures of both pages for README.md, into docs/images; needs Chromium
	$(BIN)/python tools/screenshots.py

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, tests/node_modules and caches
	rm -rf $(VENV) tests/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
