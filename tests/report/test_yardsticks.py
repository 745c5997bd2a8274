"""The classifiers beside the captions: what they learn, and which ImageNet categories are of a class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from captioning.data.annotations import Example
from captioning.data.tokenizer import Tokens
from captioning.report import tables
from captioning.report.yardsticks import (
    Features,
    draw_neighbors,
    draw_per_class,
    imagenet_classes,
    linear_probe,
    load_imagenet,
    majority_class,
    nearest_captions,
)
from captioning.scores import bootstrap
from captioning.scores.grounding import Grounder

CATEGORIES = models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]


def test_majority_class():
    assert majority_class(["cat", "dog", "dog", "", "", ""]) == "dog"
    assert majority_class(["dog", "cat"]) == "cat", "the first by name of equals"
    assert majority_class(["", ""]) == ""


def test_draw_takes_some_of_each_class():
    examples = [Example(Path(f"{label}/{n}.jpg"), ["x"], label, "train") for label in ("b", "a", "") for n in range(9)]
    drawn = draw_per_class(examples, 4, seed=1)
    assert [example.label for example in drawn] == ["a"] * 4 + ["b"] * 4
    assert len({example.image for example in drawn}) == 8
    assert drawn == draw_per_class(examples, 4, seed=1) != draw_per_class(examples, 4, seed=2)
    assert len(draw_per_class(examples, 100)) == 18
    assert draw_per_class(examples, 0) == []


def test_probe_tells_what_the_features_tell():
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(3, 16, generator=generator)
    labels = [row % 3 for row in range(90)]
    features = centres[labels] + torch.randn(90, 16, generator=generator)
    names = ["cat", "dog", "owl"]
    true = [names[label] for label in labels]
    named = linear_probe(features[:60], true[:60], features[60:])
    assert sum(a == b for a, b in zip(named, true[60:], strict=True)) == 30
    # Labels that have nothing to do with the features cannot be learned.
    shuffled = [true[row] for row in torch.randperm(60, generator=generator)]
    named = linear_probe(features[:60], shuffled, features[60:])
    assert sum(a == b for a, b in zip(named, true[60:], strict=True)) < 25


def test_probe_of_a_single_class_names_it():
    assert linear_probe(torch.zeros(2, 4), ["cat", "cat"], torch.zeros(3, 4)) == ["cat"] * 3


def test_imagenet_categories_are_of_the_class_that_their_last_words_name():
    classes = ["cat", "monkey", "tennis_court", "golf_course", "umbrella", "scale", "king", "potter_s_wheel", "wheel"]
    mapped = dict(zip(CATEGORIES, imagenet_classes(Grounder(classes)), strict=True))
    assert len(CATEGORIES) == 1000
    named = {category: label for category, label in mapped.items() if label}
    assert named == {
        **dict.fromkeys(["tiger cat", "Persian cat", "Siamese cat", "Egyptian cat", "Madagascar cat"], "cat"),
        **dict.fromkeys(
            ["proboscis monkey", "howler monkey", "spider monkey", "squirrel monkey"],
            "monkey",
        ),
        "umbrella": "umbrella",
        "scale": "scale",
        "potter's wheel": "potter_s_wheel",  # the longest name
        "car wheel": "wheel",
    }


def test_aliases_reach_further_categories():
    mapped = imagenet_classes(Grounder(["airplane"], {"airplane": ["airliner"]}))
    assert [CATEGORIES[index] for index, label in enumerate(mapped) if label] == ["airliner"]


def test_imagenet_network_is_read_whole(tmp_path):
    torch.manual_seed(0)
    network = models.mobilenet_v2(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "m.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(load_imagenet(tmp_path / "m.pth")(images), network(images))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"no archive", "not a readable state_dict"),
        ([1, 2], "no state_dict"),
        ({"features.0.0.weight": torch.zeros(1)}, "has no weights"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "m.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_imagenet(path)


def test_a_file_with_code_in_it_is_refused(tmp_path):
    torch.save({"weight": Path("x")}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match="not a readable state_dict"):
        load_imagenet(tmp_path / "m.pth")


def example(name, *captions):
    return Example(Path(name), list(captions), "", "train")


def test_an_image_gets_the_typical_caption_of_the_most_similar_one():
    vectors = {"north": [0, 3.0], "east": [1.0, 0], "a": [0.1, 5], "b": [9, 8.0], "bad": None}
    asked = []

    def encode(paths, bar):
        asked.extend(paths)
        kept = [place for place, path in enumerate(paths) if vectors[path.name]]
        return torch.tensor(kept), torch.tensor([vectors[paths[place].name] for place in kept])

    train = [example("north", "an odd thing", "A cat on a mat.", "a cat on the mat"), example("bad", "x")]
    train += [example("east", "a dog")]
    images = [example(name, "any") for name in ("a", "bad", "b")]
    features = Features(encode)
    found = nearest_captions(features, train, images, Tokens())
    assert [one.caption for one in found] == ["a cat on a mat", "", "a dog"]
    assert [one.example for one in found] == images
    nearest_captions(features, train, images, Tokens())
    assert sorted(path.name for path in asked) == ["a", "b", "bad", "east", "north"], "each image is encoded once"


def test_neighbors_are_drawn_from_a_seed():
    train = [example(str(number), "x") for number in range(50)]
    drawn = draw_neighbors(train, train[:3], 10)
    assert drawn[:3] == train[:3]
    assert len({one.image for one in drawn}) == 10
    assert drawn == draw_neighbors(train, train[:3], 10) != draw_neighbors(train, train[:3], 10, seed=1)
    assert len(draw_neighbors(train, [], 99)) == 50
    assert draw_neighbors(train, train[:3], 2) == train[:3]


def test_the_accuracy_of_references_stands_in_its_interval_however_many_an_image_has():
    """The value was a mean over captions, the interval one of images' shares: 0.9 and 0.3 to 0.7."""
    true = ["cat"] * 10 + ["dog"] * 10 * 9
    said = ["dog"] * 5 + ["cat"] * 5 + ["dog"] * 80 + ["cat"] * 10
    owner = [*range(10), *(10 + image for image in range(10) for _ in range(9))]
    (row,) = tables.yardstick_table([("references", true, said, owner, "")]).itertuples()
    assert row.accuracy == pytest.approx(np.mean(np.array(true) == np.array(said)))
    assert row.low <= row.accuracy <= row.high
    assert row.images == 20


def test_one_report_gives_the_accuracy_one_interval():
    """Draws of the table of classifiers were not within the classes, those of the summary are."""
    true, said = ["cat"] * 10 + ["dog"] * 10, ["cat"] * 15 + ["dog"] * 5
    (row,) = tables.yardstick_table([("the captions", true, said, None, "")]).itertuples()
    words = [["a"]] * 20
    counts = bootstrap.count(words, [[word] for word in words], ["cat", "dog"], true, said)
    expected = bootstrap.estimate_scores(counts)["accuracy"]
    assert (row.accuracy, row.low, row.high) == pytest.approx(expected)
    (row,) = tables.yardstick_table([("the captions", true, ["cat"] * 20, None, "")]).itertuples()
    assert np.isnan(row.low)
