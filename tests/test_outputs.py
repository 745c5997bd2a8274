"""Every script notices an output that cannot be written before it reads anything, not after the work."""

import copy

import pytest

import analysis_report
import data_loader
import export
import model
import prepare_data
import test_inference
import train
import vocab

# Every input is missing too: a script that looked for one first would name it instead.
MISSING = {"data_dir": "no_data", "model_path": "no_model.safetensors", "vocab_path": "no_vocab.pkl"}
CASES = [
    ("vocab_path", vocab, {"vocab": {"vocab_path": "taken/vocab.pkl"}}),
    ("graph_path", vocab, {"vocab": {"graph_path": "taken/vocabulary.png"}}),
    ("graphs", data_loader, {}),
    ("graphs", model, {}),
    ("graphs", train, {"train": {"run": "new"}}),
    ("checkpoints", train, {"train": {"run": "new"}}),
    ("runs", train, {"train": {"run": "new"}}),
    ("reports", analysis_report, {}),
    ("output", analysis_report, {"report": {"output": "taken/folder"}}),
    ("output", analysis_report, {"report": {"output": "taken", "compare": ["a.safetensors", "b.safetensors"]}}),
    ("reports", test_inference, {}),
    ("output", test_inference, {"inference": {"output": "taken/picture.png"}}),
    ("output_dir", export, {"export": {"output_dir": "taken/forms"}}),
    ("output", prepare_data, {"prepare": {"audit": "no_data", "output": "taken/audit"}}),
]
CONFIGS = {
    vocab: {"vocab": vocab.CONFIG},
    data_loader: {"data": data_loader.CONFIG},
    model: {"model": model.CONFIG},
    train: {"train": train.CONFIG, "data": data_loader.CONFIG, "model": model.CONFIG},
    analysis_report: {"report": analysis_report.CONFIG},
    test_inference: {"inference": test_inference.CONFIG},
    export: {"export": export.CONFIG},
    prepare_data: {"prepare": prepare_data.CONFIG},
}


@pytest.mark.parametrize(
    ("place", "script", "changes"), CASES, ids=[f"{script.__name__}-{place}" for place, script, _ in CASES]
)
def test_an_unwritable_output_is_told_first(tmp_path, monkeypatch, place, script, changes):
    monkeypatch.chdir(tmp_path)
    blocked = place if place in ("graphs", "checkpoints", "runs", "reports") else "taken"
    (tmp_path / blocked).write_text("a file where a folder should be")
    config = copy.deepcopy(CONFIGS[script])
    for name, keys in config.items():
        keys |= {key: value for key, value in MISSING.items() if key in keys and key != place}
        keys |= changes.get(name, {})
    with pytest.raises(ValueError, match=f"{blocked} is a file, a folder is needed"):
        script.main(config)
    assert [path.name for path in tmp_path.iterdir()] == [blocked]
