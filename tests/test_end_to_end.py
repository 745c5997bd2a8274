"""The scripts in their order, as a user runs them, from nothing to a captioned picture."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "--data.image_size 32 --data.num_workers 0 --model.encoder_weights none --model.embed_size 16 "
    "--model.hidden_size 16 --train.epochs 2 --train.feature_views 2 --train.max_len 8 --train.wandb off"
)
STEPS = (
    ("prepare_data.py", "--per_class 10", ["data/pictograms/captions.csv", "data/pictograms/preview.png"]),
    ("vocab.py", "", ["vocab_2.pkl", "graphs/vocabulary.png"]),
    ("data_loader.py", "--num_workers 0", ["graphs/batch.png"]),
    ("model.py", "", ["graphs/complexity.csv", "graphs/complexity.png"]),
    ("train.py", TINY, ["checkpoints/mobile.safetensors", "checkpoints/mobile_last.pt", "graphs/tl_mobile.png"]),
    ("analysis_report.py", "--num_workers 0 --max_len 8", ["reports/mobile/report.md", "reports/mobile/confusion.png"]),
    ("test_inference.py", "--max_len 8", ["reports/mobile/test_inference.png"]),
)


def test_from_nothing_to_a_captioned_picture(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    for script, flags, written in STEPS:
        command = [sys.executable, str(ROOT / script), *flags.split()]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{script}: {result.stderr[-2000:]}"
        for name in written:
            assert (tmp_path / name).is_file(), f"{script} did not write {name}: {result.stdout}"
        if script != STEPS[-1][0]:
            assert "next: python" in result.stdout or "python " in result.stdout.splitlines()[-1], result.stdout
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 100, path
    summary = pd.read_csv(tmp_path / "reports/mobile/summary.csv")
    assert {"metric", "value", "recipe"} <= set(summary.columns)
    assert len(pd.read_csv(tmp_path / "reports/mobile/images.csv")) == 60
    assert len(pd.read_csv(tmp_path / "reports/mobile/classes.csv")) == 60
