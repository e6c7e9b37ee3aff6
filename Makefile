# GNU make 3.81 (macOS) is enough. `make` alone lists the commands.

PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
INSTALLED := .venv/.installed
# what the chapters show must not depend on the machine: small data, no accelerator
QUICK := TSKD_PROFILE=quick ACCELERATE_USE_CPU=true CUDA_VISIBLE_DEVICES=

.PHONY: help book serve test lowest newest colab bench lint hooks notebook lock repository clean

help:
	@echo "make book              install, execute every notebook, render the book"
	@echo "make serve             show the book in a browser (PORT=8000)"
	@echo "make test              install, run all tests and compare every notebook"
	@echo "make lowest            run the tests with the lowest versions that pyproject.toml admits"
	@echo "make newest            run the tests with the newest versions"
	@echo "make colab             run the notebooks with the versions that Colab has (NAMES=01-quickstart)"
	@echo "make notebook NAME=01-quickstart    execute one notebook and keep its outputs"
	@echo "make bench             measure the speed on this machine"
	@echo "make lint              check the style of the code"
	@echo "make hooks             check style and chapters before every commit"
	@echo "make lock              write requirements.lock anew (UPGRADE=--upgrade for newer packages)"
	@echo "make repository URL=https://github.com/you/fork    change the address everywhere"
	@echo "make clean             remove what was built (.venv stays)"
	@echo "Add PYTHON=python3.12 to install with that Python; remove .venv first to change it later."

$(INSTALLED): pyproject.toml requirements.lock
	@command -v "$(PYTHON)" > /dev/null || { echo "There is no '$(PYTHON)' here: install Python 3.10 to 3.13, or name yours, for example with 'make test PYTHON=python3.12'." >&2; exit 1; }
	@"$(PYTHON)" scripts/install.py

book: $(INSTALLED)
	$(QUICK) $(BIN)/jupyter-book build . -n -W --keep-going --all
	@$(BIN)/python -c "import pathlib; print('The book is ready. Open', pathlib.Path('_build/html/index.html').resolve().as_uri())"

serve: $(INSTALLED)
	@test -f _build/html/index.html || $(MAKE) book
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

test: $(INSTALLED)
	$(BIN)/python -m pytest --nbval

lowest: $(INSTALLED)
	$(BIN)/python scripts/run_with_versions.py lowest

newest: $(INSTALLED)
	$(BIN)/python scripts/run_with_versions.py newest

colab: $(INSTALLED)
	$(BIN)/python scripts/run_as_on_colab.py $(NAMES)

bench: $(INSTALLED)
	$(BIN)/tskd bench

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

hooks: $(INSTALLED)
	$(BIN)/pre-commit install

notebook: $(INSTALLED)
	$(QUICK) $(BIN)/python scripts/run_notebook.py $(NAME)

lock: $(INSTALLED)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" $(UPGRADE) pyproject.toml -o requirements.lock

repository:
	$(PYTHON) scripts/set_repository.py $(URL)

clean:
	rm -rf _build .venv-* .pytest_cache .ruff_cache .hypothesis build dist
