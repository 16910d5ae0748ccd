# Thin names for make.py, which also runs where there is no make: python make.py test
PYTHON ?= python3

.PHONY: all demo test slow check format
all: format test

demo test slow check format:
	@$(PYTHON) make.py $@ $(ARGS)
