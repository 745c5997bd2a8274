"""The ExecuTorch program says what PyTorch says, for every decoder, and carries its metadata."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch

import export
from caption import Captioner, TorchModel
from captioning.checkpoint import load_checkpoint
from captioning.metadata import PARTS, dump_metadata
from captioning.search.options import SearchOptions
from model import CONFIG, build_model

WORDS = {"start": 1, "end": 2, "banned": (0, 1, 3)}
VOCAB = ["<pad>", "<start>", "<end>", "<unk>", *(f"w{number}" for number in range(30))]
TRANSFORM = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
DECODERS = [
    {"image_input": "first"},
    {"image_input": "every", "num_layers": 2, "tie_weights": True},
    {"decoder": "attention"},
]
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("executorch") is None, reason="pip install -r requirements-executorch.txt"
    ),
    pytest.mark.filterwarnings("ignore"),  # of the exporter, to its own authors, from its import on
]


@pytest.fixture
def executorch():
    from captioning.deploy import executorch_model

    return executorch_model


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda kind: " ".join(map(str, kind.values())))
def test_the_same_captions_as_pytorch(executorch, decoder, tmp_path):
    torch.manual_seed(0)
    network = build_model(len(VOCAB), CONFIG | {"embed_size": 12, "hidden_size": 16} | decoder).eval()
    with torch.no_grad():
        for parameter in network.decoder.parameters():
            parameter.mul_(3)
    parts = {name: kind() for name, kind in PARTS.items()} | {"vocab": VOCAB, "transform": TRANSFORM}
    executorch.export_executorch(network, dump_metadata(parts | {"config": {"model": {}}}), 32, tmp_path / "a.pte")
    program, ours = executorch.ExecutorchModel(tmp_path / "a.pte"), TorchModel(network, VOCAB, TRANSFORM, {})
    assert program.vocab == VOCAB
    generator = np.random.default_rng(0)
    images = (generator.uniform(0.2, 3, size=(6, 1, 1, 1)) * generator.normal(size=(6, 3, 32, 32))).astype(np.float32)
    for beam_size in (1, 4):
        options = SearchOptions(beam_size=beam_size, max_len=9, num_best=beam_size)
        found = [model.search(images, options, **WORDS)[0] for model in (ours, program)]
        for one, other in zip(*found, strict=True):
            assert [caption.ids for caption in one] == [caption.ids for caption in other]
            assert [c.log_prob for c in one] == pytest.approx([c.log_prob for c in other], abs=1e-3)


def test_export_writes_and_scores_it(executorch, model_files, pictograms_dir, tmp_path, capsys):
    settings = {"model_path": str(model_files.checkpoint), "data_dir": str(pictograms_dir), "executorch": True}
    settings |= {"output_dir": str(tmp_path), "num_images": 12, "num_runs": 2, "hub": "owner/name"}
    (tmp_path / "summary.csv").write_text("metric,value,recipe\nBLEU-4,0.9,bleu\n", encoding="utf-8")
    export.main(export.CONFIG | settings | {"report": str(tmp_path)})
    assert not list((tmp_path / "pictograms_hub").glob("*.pte"))  # the model folder has the other three forms
    table = pd.read_csv(tmp_path / "pictograms.csv").set_index("form")
    assert list(table.index) == [*export.FORMS, export.EXECUTORCH]
    row = table.loc[export.EXECUTORCH]
    assert row["same greedy captions"] == row["same beam captions"] == 1
    assert row["MB"] == pytest.approx((tmp_path / "pictograms.pte").stat().st_size / 1e6)
    model = executorch.ExecutorchModel(tmp_path / "pictograms.pte")
    assert model.decoding == load_checkpoint(model_files.checkpoint).decoding
    picture = next((pictograms_dir / "test").rglob("*.jpg"))
    ours, theirs = (Captioner(one)(picture)[0] for one in (TorchModel.load(model_files.checkpoint), model))
    assert ours.text == theirs.text
    assert ours.familiarity == pytest.approx(theirs.familiarity, abs=0.01)
