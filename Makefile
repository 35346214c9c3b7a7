# Needs Python 3.11 or newer as python3. Everything runs in .venv.
PYTHON := .venv/bin/python

.PHONY: setup app test test-fast lint types

setup: .venv/installed

.venv/installed: requirements.txt requirements-dev.txt
	python3 -m venv .venv
	$(PYTHON) -m pip install -r requirements-dev.txt
	touch $@

app: setup
	.venv/bin/streamlit run app.py

test: setup
	$(PYTHON) -m pytest

test-fast: setup
	$(PYTHON) -m pytest -m "not slow and not browser"

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup
	.venv/bin/mypy
