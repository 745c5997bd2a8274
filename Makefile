# make demo   from nothing to a captioned picture; make demo-ko in Korean
# make test   the tests; continuous integration runs them and make lint
# make app    the page on the shipped models
# make space  a Hugging Face Space in exports/space, as it stands
# make int8   the files that these two need, made anew from the shipped checkpoints

PYTHON ?= python3
BIN := .venv/bin
DEMO := data/pictograms_demo
LANGUAGE := en
SPACE := exports/space

.PHONY: demo demo-ko test lint app space int8 clean

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/installed-deploy: .venv/installed requirements-deploy.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-deploy.txt
	touch $@

demo: RUN := demo
demo-ko: RUN := demo_ko
demo-ko: DEMO := data/pictograms_demo_ko
demo-ko: LANGUAGE := ko
demo demo-ko: .venv/installed
	$(BIN)/python prepare_data.py --output $(DEMO) --per_class 100 --language $(LANGUAGE)
	$(BIN)/python vocab.py --data_dir $(DEMO) --vocab_path runs/$(RUN)/vocab.pkl
	$(BIN)/python train.py --train.run $(RUN) --train.epochs 8 --train.feature_views 2 --train.lr 0.001 --train.wandb off \
		--data.data_dir $(DEMO) --data.vocab_path runs/$(RUN)/vocab.pkl --data.crop_scale 0.9
	$(BIN)/python analysis_report.py --model_path checkpoints/$(RUN).safetensors --data_dir $(DEMO)
	$(BIN)/python test_inference.py --model_path checkpoints/$(RUN).safetensors --data_dir $(DEMO)
	@echo "Look at reports/$(RUN)/test_inference.png, 20 captioned pictures, then open reports/$(RUN)/report.html"

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# A virtual environment of its own: the page needs neither torch nor the rest of requirements.txt.
app: .venv-app/installed
	.venv-app/bin/python app.py

.venv-app/installed: requirements-app.txt
	$(PYTHON) -m venv .venv-app
	.venv-app/bin/pip install --quiet --disable-pip-version-check -r requirements-app.txt
	touch $@

space:
	mkdir -p $(SPACE)
	find $(SPACE) -mindepth 1 -maxdepth 1 ! -name .git -exec rm -r {} +
	mkdir $(SPACE)/checkpoints
	cp app.py caption.py vocab.py LICENSE space/README.md $(SPACE)
	cp requirements-app.txt $(SPACE)/requirements.txt
	cp checkpoints/*_int8.onnx $(SPACE)/checkpoints
	cp -r captioning examples $(SPACE)
	find $(SPACE) -name __pycache__ -prune -exec rm -r {} +
	@echo "Push $(SPACE) to the Space's repository, or try it: cd $(SPACE) && python app.py"

# The int8 file of each shipped checkpoint, calibrated on its train images: make int8 FLICKR8K=<folder> UCM=<folder>
int8: .venv/installed-deploy data/pictograms/captions.csv
	$(BIN)/python export.py --num_images 0 --model_path photos --data_dir $(FLICKR8K)
	$(BIN)/python export.py --num_images 0 --model_path aerial --data_dir $(UCM)
	$(BIN)/python export.py --num_images 0 --model_path pictograms
	cp exports/photos_int8.onnx exports/aerial_int8.onnx exports/pictograms_int8.onnx checkpoints

data/pictograms/captions.csv: | .venv/installed
	$(BIN)/python prepare_data.py

clean:
	rm -rf .venv .venv-app data exports runs reports vocab_*.pkl
