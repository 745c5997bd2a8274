# make demo   from nothing to a captioned picture
# make test   what continuous integration runs
# make app    the page on the shipped checkpoint
# make space  a Hugging Face Space in exports/space, as it stands

PYTHON ?= python3
BIN := .venv/bin
DEMO := data/pictograms_demo
SPACE := exports/space

.PHONY: demo test lint app space clean

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/installed-app: .venv/installed requirements-app.txt requirements-deploy.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-app.txt -r requirements-deploy.txt
	touch $@

demo: .venv/installed
	$(BIN)/python prepare_data.py --output $(DEMO) --per_class 100
	$(BIN)/python vocab.py --data_dir $(DEMO) --vocab_path runs/demo/vocab.pkl
	$(BIN)/python train.py --train.run demo --train.epochs 8 --train.feature_views 2 --train.lr 0.001 --train.wandb off \
		--data.data_dir $(DEMO) --data.vocab_path runs/demo/vocab.pkl --data.crop_scale 0.9
	$(BIN)/python analysis_report.py --model_path checkpoints/demo.safetensors --data_dir $(DEMO)
	$(BIN)/python test_inference.py --model_path checkpoints/demo.safetensors --data_dir $(DEMO)
	@echo "Look at reports/demo/test_inference.png, 20 captioned pictures, then open reports/demo/report.html"

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

app: .venv/installed-app data/pictograms/captions.csv
	$(BIN)/python app.py

data/pictograms/captions.csv: | .venv/installed
	$(BIN)/python prepare_data.py

space: .venv/installed-app data/pictograms/captions.csv
	$(BIN)/python export.py --num_images 0
	rm -rf $(SPACE)
	mkdir -p $(SPACE)/captioning $(SPACE)/examples
	cp app.py caption.py vocab.py LICENSE space/README.md space/start.py $(SPACE)
	cp requirements-app.txt $(SPACE)/requirements.txt
	cp -r captioning/. $(SPACE)/captioning
	cp exports/pictograms_int8.onnx $(SPACE)/model.onnx
	for name in airplane cat hammer scissors star umbrella; do \
		cp data/pictograms/test/$$name/0001.jpg $(SPACE)/examples/$$name.jpg; \
	done
	@echo "Push $(SPACE) to the Space's repository, or try it: cd $(SPACE) && python start.py"

clean:
	rm -rf .venv data exports runs reports vocab_*.pkl
