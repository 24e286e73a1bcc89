# Each target alone is enough on a fresh machine with Python >= 3.10.
PYTHON ?= python3
OUTPUT ?= runs/quickstart

.PHONY: quickstart test lint

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -e ".[dev]"
	touch $@

# Train on generated scenes of handwritten digits, evaluate, draw pictures of what it finds.
quickstart: .venv/installed
	.venv/bin/dino-detr train recipes/quickstart.yaml --output_dir $(OUTPUT)
	.venv/bin/dino-detr evaluate $(OUTPUT) --dataset digits --split val
	@echo "Pictures of its detections: $(OUTPUT)/plots/detections.png; its card: $(OUTPUT)/README.md"

test: lint
	.venv/bin/python -m pytest -n auto -m "not slow"

# What the commit hook runs too (.pre-commit-config.yaml): style, typing errors, floors of the package, types.
lint: .venv/installed
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/codespell
	.venv/bin/lint-imports
	.venv/bin/python -m pyright --pythonpath .venv/bin/python
