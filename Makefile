.PHONY: check test fuzz accuracy bench plots-template

check:  ## what CI runs before the pipeline: style, types, imports between packages, all tests
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest -m ""

test:  ## the tests that take seconds; without proofs, browsers and end-to-end runs
	pytest

fuzz:  ## nightly: 50,000 damaged files and 12,500 changed settings, each read or refused by name
	LABELTUNE_FUZZ=50000 pytest tests/unit/data/test_readers_fuzz.py tests/unit/config/test_resolve_fuzz.py

bench:  ## labeltune beside what a user would run instead, on the prepared rows
	python -m benchmarks.sides

accuracy:  ## accuracy on the data sets of the suite beside other methods; goes on where it was interrupted
	python -m benchmarks.accuracy

plots-template:  ## rebuild the page of `dvc plots show` from its npm packages
	python tools/offline_plots.py
