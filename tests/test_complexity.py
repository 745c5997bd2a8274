"""The encoders have their published size; model.py prints each row once it is measured."""

import pandas as pd
import pytest
import torch

import model
from captioning import complexity
from captioning.complexity import count_macs, median_seconds
from model import EncoderCNN


@pytest.mark.parametrize(
    ("name", "embed_size", "params_m", "macs_g"),
    [("mobilenet_v2", 300, 2.61, 0.327), ("resnet18", 300, 11.33, 1.824), ("resnet18", 512, 11.44, 1.824)],
)
def test_size_and_macs_are_the_published_ones(name, embed_size, params_m, macs_g):
    macs, parameters = count_macs(EncoderCNN(name, embed_size), 224)
    assert round(parameters / 1e6, 2) == params_m
    assert round(macs / 1e9, 3) == macs_g


def test_counting_leaves_the_model_as_it_was():
    encoder = EncoderCNN()
    before = set(encoder.state_dict())
    count_macs(encoder, 64)
    assert set(encoder.state_dict()) == before


def test_the_median_leaves_out_the_warm_up(monkeypatch):
    clock = iter([0, 100, 100, 101, 101, 103, 103, 112])  # calls of 100 (warm-up), 1, 2 and 9 s
    monkeypatch.setattr(complexity.time, "perf_counter", lambda: next(clock))
    calls = []
    assert median_seconds(lambda: calls.append(1), 3, warm_up=1) == 2
    assert len(calls) == 4


def test_each_row_is_printed_once_it_is_measured(tmp_path, monkeypatch, capsys):
    """On a busy machine model.py once printed nothing for three minutes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model, "pick_device", lambda: torch.device("cpu"))
    latency = {"cpu batch 1": 17.125, "cpu batch 32": 900.5}
    costs = {"params_m": 2.6, "macs_g": 0.3, "macs_g_256px": 0.4, "checkpoint_mb": 10.5, "latency_ms": latency}
    printed = []

    def measure(encoder, devices):
        printed.append(capsys.readouterr().out)
        return costs

    monkeypatch.setattr(complexity, "measure", measure)
    model.main({"model": model.CONFIG})
    header, first, second = printed
    assert header.split("  ")[0] == "encoder (embed_size)"
    assert header.count("\n") == first.count("\n") == second.count("\n") == 1
    assert first.startswith("MobileNetV2 (300)")
    assert first.endswith("17.12             900.50\n")
    assert len(header) == len(first)
    assert second.startswith("ResNet-18 (300)")
    table = pd.read_csv("graphs/complexity.csv")
    assert list(table["model"]) == ["MobileNetV2 (300)", "ResNet-18 (300)", "ResNet-18 (512)"]
    assert list(table.columns) == ["model", *list(costs)[:-1], *latency]
