PYTHON ?= python3
# Options for the installation of torch, for instance PyTorch's own index of CPU builds: see CONTRIBUTING.md.
TORCH_OPTIONS ?=
# On Xeons with AMX, llama.cpp is built as for any other processor: see CONTRIBUTING.md.
NO_AMX = -march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
LLAMA_FLAGS := $(if $(shell grep -m1 -o amx_int8 /proc/cpuinfo 2>/dev/null),CMAKE_ARGS=-DGGML_NATIVE=OFF CFLAGS="$(NO_AMX)" CXXFLAGS="$(NO_AMX)")
DEMO = out/demo-model/checkpoint
TYPES = q8_0,q6_k,q5_k_m,q4_k_m,q4_0,iq4_nl,iq4_xs,q3_k_m,q2_k
PIP = bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-model demo-accuracy demo-types test check package clean

demo: .venv/.installed
	@.venv/$(PIP) --no-deps .
	@mkdir -p out
	.venv/bin/skingpt diagnose runtime/demo/pictures/*.jpg --html out/report.html

# 35 minutes on 2 cores. RESUME=--resume goes on after an interruption.
demo-model: .venv-test/.installed
	.venv-test/bin/skingpt-export demo-model -o out/demo-model $(RESUME)

# The table and plot of docs/demonstration-model.md, from the checkpoints of demo-model.
demo-accuracy: .venv-test/.installed
	.venv-test/bin/python -m skingpt_edge.export.demo.report out/demo-model benchmarks/results/demo

# The table and plot of the language model's types, from the same checkpoints.
demo-types: .venv-test/.installed
	.venv-test/bin/python -m skingpt_edge.export.demo.comparison_set out/comparison
	@rm -rf out/types
	.venv-test/bin/skingpt-export compare --vit $(DEMO)/eva_vit_g.pth --qformer $(DEMO)/blip2_pretrained.pth \
	  --adapter $(DEMO)/skingpt4.pth --llm $(DEMO)/llm --vision int8 --calibrate out/comparison/calibrate \
	  --pictures out/comparison/pictures --count 500 --types $(TYPES) -o out/types \
	  --name "The demonstration model's language model by type"
	cp out/types/* benchmarks/results/demo/

test: .venv-test/.installed
	.venv-test/bin/pytest

check: .venv-test/.installed
	@mkdir -p .typing && ln -sfn .. .typing/skingpt_edge
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	MYPYPATH=packaging/papers .venv-test/bin/mypy packaging/papers

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@echo "Installing the runtime; llama.cpp is compiled for this machine, which takes about 5 minutes."
	$(LLAMA_FLAGS) .venv/$(PIP) '.[cpu,serve]'
	@touch $@

# torch first: anything that depends on it would bring the build for CUDA.
.venv-test/.installed: pyproject.toml constraints.txt CMakeLists.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/$(PIP) torch==2.13.0 $(TORCH_OPTIONS)
	@echo "Installing what the tests need; llama.cpp is compiled for this machine, unless pip has it already."
	$(LLAMA_FLAGS) .venv-test/$(PIP) --editable '.[dev]'
	@touch $@

# The .deb, the .tar.gz and the wheels for offline machines, in out/: docs/install.md.
package:
	$(MAKE) --no-print-directory -C packaging/linux

clean:
	rm -rf .venv .venv-test .typing .mypy_cache .pytest_cache .ruff_cache build out
