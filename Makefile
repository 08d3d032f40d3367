# Everything a newcomer needs: `make train` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
comma := ,
empty :=
VARIANTS := $(subst $(empty) $(empty),$(comma),$(filter-out base,$(basename $(notdir $(wildcard conf/model/*.yaml)))))

.PHONY: install train test lint smoke clean

train: install
	$(VENV)/bin/python train.py

test: install
	$(VENV)/bin/python -m pytest -n auto

lint: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

smoke: install
	$(VENV)/bin/python train.py -m experiment=smoke model=$(VARIANTS)

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Gantry needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo 'Installing into $(VENV): some minutes, once'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
