# make demo   from nothing to a captioned picture
# make test   what continuous integration runs

PYTHON ?= python3
BIN := .venv/bin
DEMO := data/pictograms_demo

.PHONY: demo test lint clean

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: .venv/installed
	$(BIN)/python prepare_data.py --output $(DEMO) --per_class 100
	$(BIN)/python vocab.py --data_dir $(DEMO) --vocab_path runs/demo/vocab.pkl
	$(BIN)/python train.py --train.run demo --train.epochs 8 --train.feature_views 2 --train.wandb off \
		--data.data_dir $(DEMO) --data.vocab_path runs/demo/vocab.pkl --data.crop_scale 0.9
	$(BIN)/python analysis_report.py --model_path checkpoints/demo.safetensors --data_dir $(DEMO)
	$(BIN)/python test_inference.py --model_path checkpoints/demo.safetensors --data_dir $(DEMO)
	@echo "Look at reports/demo/report.html and the PNGs in reports/demo/ and graphs/"

test: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

clean:
	rm -rf .venv data runs reports vocab_*.pkl
