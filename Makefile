# Everything a newcomer needs: `make train` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
comma := ,
empty :=
# Variants of millions of weights: a smoke run makes some of them narrow, and the slow tests train each.
LARGE := biggan biggan_full progan projection r3gan_full reacgan sagan sngan_official stylegan2
NARROW := biggan,progan,r3gan_full,stylegan2
VARIANTS := $(subst $(empty) $(empty),$(comma),$(filter-out base $(LARGE),$(basename $(notdir $(wildcard conf/model/*.yaml)))))

# Without its Python, which may have gone since, .venv is no installation.
$(shell [ -x $(VENV)/bin/python ] || rm -f $(STAMP))

.PHONY: install train test lint smoke examples speed docs clean

train: install
	$(VENV)/bin/python train.py

test: install
	$(VENV)/bin/python -m pytest -n auto

lint: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

smoke: install examples
	$(VENV)/bin/python train.py -m experiment=smoke sweep.jobs=2 model=$(VARIANTS)
	$(VENV)/bin/python train.py -m experiment=smoke sweep.jobs=2 model=$(NARROW) model.generator.width=8 model.discriminator.width=8

# The commands at the head of each file of examples/, in a temporary folder.
examples: install
	$(VENV)/bin/python examples/run.py

# A step against the same networks in a bare loop, in the same process: fails where it takes 1.3 times as long.
speed: install
	$(VENV)/bin/python benchmarks/step.py dcgan,sngan 16 5 bound=1.3 batch_size=32

# The pages of docs/ as a site in site/; a broken link is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

$(VENV)/.docs: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $(VENV)/.docs

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@PYTHON='$(PYTHON)' sh install.sh $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache site
