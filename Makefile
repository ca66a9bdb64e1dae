# make demo: caption a drawing and a photograph, then preprocess, train, evaluate and caption, on generated images.
# make test: lint, types, tests.
# Both install what they need into .venv first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow tutorial course lint benchmark check-gpu fuzz install clean

install: .venv/installed

.venv/installed: requirements.txt tests/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; give it by: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	touch $@

demo: install
	@echo "first, with the models that come with the code: a drawing, and a photograph (10 to 15 seconds)"
	$(BIN)/python caption_image.py --checkpoint pretrained/shapes --image examples/photos/shapes.png \
		--output runs/first/drawing.png
	$(BIN)/python caption_image.py --image examples/photos/camera.jpg --beam-size 5 --output runs/first/photo.png
	@echo "runs/first/ has the figures. Now train a model yourself, on drawings:"
	@echo "1 of 4: draw 9,000 images of coloured shapes, with captions and masks (about 10 seconds)"
	$(BIN)/python -c "import pathlib; from caption import files; from caption.config.cli import run; \
		run(lambda _: files.remove_folder(pathlib.Path('runs/demo')))"
	$(BIN)/python -m preprocess shapes --output data/shapes.h5 --save-images data/shapes-test --overwrite
	@echo "2 of 4: train an encoder and a decoder from nothing: short captions first, then all (one and a half to three minutes)"
	$(BIN)/python train.py shapes-soft --data data/shapes.h5 --output runs/demo
	@echo "3 of 4: caption 500 new images: are the captions true, does attention look at the right place (15 seconds)"
	$(BIN)/python evaluate.py --checkpoint runs/demo/best.pt --data data/shapes.h5 --split test --beam-size 3 \
		--instances data/shapes_instances.json --report runs/demo/report
	@echo "4 of 4: caption one image, and draw where attention looked at each word"
	$(BIN)/python caption_image.py --checkpoint runs/demo/best.pt --image data/shapes-test/shapes_test_000001.png \
		--output runs/demo/caption.png
	@echo "look at runs/demo/caption.png (the image, and the attention of each word), runs/demo/curves.png,"
	@echo "and, in a browser, runs/demo/report/index.html (every caption of the test split, the worst first)"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: install
	$(BIN)/python -m pytest -m slow

# All notebooks, those of docs/tutorial and the quickstart, from top to bottom, and the time of each.
tutorial: install
	$(BIN)/python -m pytest -m slow --durations=0 tests/test_notebooks.py

# The homework of docs/course.md: every hole blank, as it is, and answered wrongly (the slow tests of tests/course).
course: install
	$(BIN)/python -m pytest -m slow tests/course

benchmark: install
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.search

# Damaged files by the thousand (docs/reliability.md); CASES of each kind, from SEED.
fuzz: install
	$(BIN)/python tests/fuzz/fuzz.py all --cases $(or $(CASES),2000) --seed $(or $(SEED),1)

# What only a GPU can show: correctness, then times, at most twelve minutes. DRY=1 tries the script on a CPU.
check-gpu: install
	$(BIN)/python -m benchmarks.check_gpu $(if $(DRY),--dry)

clean:
	rm -rf .venv
