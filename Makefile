.PHONY: check test bench plots-template

check:  ## what CI runs before the pipeline: style, types, tests
	ruff check .
	ruff format --check .
	mypy
	OMP_NUM_THREADS=1 pytest -n logical --dist loadfile --no-loadscope-reorder

test:  ## the tests that take seconds
	OMP_NUM_THREADS=1 pytest -n logical --dist loadfile --no-loadscope-reorder -m "not slow"

bench:  ## labeltune beside what a user would run instead, on the prepared rows
	python -m benchmarks.sides

plots-template:  ## rebuild the page of `dvc plots show` from its npm packages
	python tools/offline_plots.py
