"""Batches: right owners, padding to the longest, the same again from the same seed, damaged files named."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import model
from captioning import plots
from captioning.data.annotations import Example
from captioning.data.images import check_unreadable, load_image
from captioning.data.sequences import Captions
from captioning.runtime import mix_seed, random_numbers
from captioning.scores.grounding import Grounder
from data_loader import (
    CONFIG,
    CachedBatches,
    CaptionDataset,
    EvalTransform,
    ImageBatches,
    TrainTransform,
    build_loader,
    captions_that_name_their_class,
    length_buckets,
    main,
    pick_image_size,
)
from vocab import SPECIALS, Vocabulary, save_vocabulary

SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "pictograms.safetensors"
VOCABULARY = Vocabulary([*SPECIALS, "a", "red", "sun", "cup"])


@pytest.fixture
def examples(tmp_path):
    """Six pictures; the fourth is truncated."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(6):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
        found.append(Example(path, ["a red sun", "cup"][: 1 + number % 2], f"c{number % 2}", "train"))
    found[3].image.write_bytes(found[3].image.read_bytes()[:300])
    return found


def test_owner_tokens_labels_and_the_damaged_image(examples):
    dataset = CaptionDataset(examples, VOCABULARY, EvalTransform(16), classes=["c0", "c1"])
    batch = next(iter(build_loader(dataset, batch_size=6)))
    assert (batch.inputs.shape, batch.inputs.dtype) == ((5, 3, 16, 16), torch.uint8)
    assert batch.index.tolist() == [0, 1, 2, 4, 5]
    assert batch.labels.tolist() == [0, 1, 0, 0, 1]
    assert batch.owner.tolist() == [0, 1, 1, 2, 3, 4, 4]
    assert batch.tokens.tolist()[:3] == [[1, 4, 5, 6, 2], [1, 4, 5, 6, 2], [1, 7, 2, 0, 0]]
    assert len(batch.failed) == 1
    assert str(examples[3].image) in batch.failed[0]


def test_names_class_follows_its_caption_into_every_kind_of_batch(examples):
    """Image c0 is captioned "a red sun"; c1 also "cup", which is the only caption that names its class."""
    grounder = Grounder(["c0", "c1"], {"c1": ["cup"]})
    dataset = CaptionDataset(examples, VOCABULARY, EvalTransform(16), classes=["c0", "c1"], grounder=grounder)
    batch = next(iter(build_loader(dataset, batch_size=6)))
    assert batch.kind == "images"
    assert batch.names_class.tolist() == [False, False, True, False, False, False, True]

    labels = torch.from_numpy(dataset.labels).long()
    tokens = dataset.tokens.take([5, 0, 1])  # what a cache holds lacks the images that could not be read
    for by_caption in (True, False):
        batches = CachedBatches(torch.zeros(3, 1, 4), tokens, labels[[5, 0, 1]], 2, by_caption=by_caption)
        for batch in batches.epoch(seed=0):
            assert batch.kind == "pooled features"
            assert batch.names_class.tolist() == [ids[1] == VOCABULARY.stoi["cup"] for ids in batch.tokens.tolist()]


def test_a_class_name_that_the_vocabulary_lacks_is_not_named(examples):
    """The model reads <unk> there, so weighting the caption would teach it no name."""
    cups = [Example(e.image, ["a red cup", "a red mug"], "cup", "train") for e in examples[:1]]
    grounder = Grounder(["cup"], {"cup": ["mug"]})
    assert captions_that_name_their_class(cups, VOCABULARY, grounder).tolist() == [True, False]


def test_an_image_without_a_class_has_no_caption_that_names_it(examples):
    plain = [Example(e.image, ["a sun", "a cup"], "", "train") for e in examples[:1]]
    assert captions_that_name_their_class(plain, VOCABULARY, Grounder(["cup"])).tolist() == [False, False]


def test_a_batch_is_padded_to_its_own_longest_caption(examples):
    short = [Example(e.image, ["cup"], "", "train") for e in examples[:2]]
    batch = next(iter(build_loader(CaptionDataset(short, VOCABULARY, EvalTransform(16)), batch_size=2)))
    assert batch.tokens.shape == (2, 3)
    assert batch.labels.tolist() == [-1, -1]


def read_batches(examples, seed, *, num_workers=0, context=None):
    """Return (index, inputs, tokens) of the batches of an epoch; two captions an image, of which one is drawn."""
    dataset = CaptionDataset(examples, VOCABULARY, TrainTransform(16, quarter_turn=0.5), captions_per_image=1)
    loader = build_loader(dataset, batch_size=2, num_workers=num_workers, shuffle=True, seed=seed)
    loader.multiprocessing_context = context if num_workers else None
    return [(batch.index.tolist(), batch.inputs, batch.tokens.tolist()) for batch in loader]


def assert_same_batches(first, second):
    assert [(index, tokens) for index, _, tokens in first] == [(index, tokens) for index, _, tokens in second]
    assert all(torch.equal(one, other) for (_, one, _), (_, other, _) in zip(first, second, strict=True))


@pytest.mark.parametrize(("num_workers", "context"), [(1, "fork"), (2, "fork"), (4, "fork"), (2, "spawn")])
def test_the_seed_alone_decides_what_batches_hold(examples, num_workers, context):
    """0, 1 and 2 workers once gave other augmentation, and with 0 workers the seed was not heeded."""
    torch.manual_seed(num_workers)
    before = torch.get_rng_state()
    found = read_batches(examples, 7, num_workers=num_workers, context=context)
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator goes on as if nothing had been read"
    torch.manual_seed(99)
    assert_same_batches(found, read_batches(examples, 7))


def test_another_seed_is_another_epoch(examples):
    first, other = read_batches(examples, 0), read_batches(examples, 1)
    assert [index for index, _, _ in first] != [index for index, _, _ in other]
    pictures = [
        {number: picture for index, inputs, _ in batches for number, picture in zip(index, inputs, strict=True)}
        for batches in (first, other)
    ]
    assert not any(torch.equal(picture, pictures[1][number]) for number, picture in pictures[0].items())


def test_what_an_image_draws_depends_on_its_index_alone(examples):
    """The order in which items are read, and which others are read, changes nothing."""
    dataset = CaptionDataset(examples, VOCABULARY, TrainTransform(16)).keyed(3)
    forwards = {number: dataset[number]["image"] for number in (0, 1, 2)}
    backwards = {number: dataset[number]["image"] for number in (2, 0)}
    assert all(torch.equal(forwards[number], picture) for number, picture in backwards.items())


def test_keys_that_are_near_each_other_have_unrelated_numbers():
    """(epoch 0, image 1) is not (epoch 1, image 0), and the sum of a key says nothing about it."""
    drawn = {}
    for key in [(seed, image) for seed in range(30) for image in range(30)] + [(seed,) for seed in range(30)]:
        with random_numbers(*key):
            drawn[key] = tuple(torch.rand(4).tolist())
    assert len(set(drawn.values())) == len(drawn)
    grid = np.array([[drawn[seed, image][0] for image in range(30)] for seed in range(30)])
    for one, other in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1]), (grid[1:, :-1], grid[:-1, 1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.12


def test_captions_per_image_draws_that_many(examples):
    dataset = CaptionDataset(examples[:2], VOCABULARY, EvalTransform(16), captions_per_image=1)
    assert [len(dataset[index]["tokens"]) for index in range(2)] == [1, 1]


def test_the_index_is_numbers_only(examples):
    """A list of strings or tensors in the dataset would be copied into every worker."""
    dataset = CaptionDataset(examples, VOCABULARY, None, classes=["c0", "c1"])
    assert dataset.labels.dtype == np.int32
    assert dataset.tokens.ids.values.dtype == np.uint8
    assert list(dataset.paths) == [str(example.image) for example in examples]
    assert [ids.tolist() for ids in dataset.tokens[1]] == [[1, 4, 5, 6, 2], [1, 7, 2]]


def buckets(lengths, seed, batch_size=64, window=50):
    return length_buckets(lengths, batch_size, torch.Generator().manual_seed(seed), window)


def padding(lengths, batches):
    """The share of cells that are padding."""
    cells = sum(len(rows) * int(lengths[rows].max()) for rows in batches)
    return 1 - int(lengths.sum()) / cells


@pytest.mark.parametrize(("count", "batch_size", "window"), [(1000, 64, 5), (63, 64, 50), (64, 64, 1), (7, 2, 2)])
def test_buckets_hold_every_caption_once(count, batch_size, window):
    lengths = torch.randint(3, 20, (count,), generator=torch.Generator().manual_seed(0))
    batches = buckets(lengths, 0, batch_size, window)
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    assert len(batches) == -(-count // batch_size)
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)


def test_no_captions_no_buckets():
    assert torch.cat([*buckets(torch.empty(0, dtype=torch.long), 0), torch.empty(0)]).tolist() == []


def test_buckets_are_the_same_from_the_same_seed_and_new_in_each_epoch():
    lengths = np.random.default_rng(0).integers(3, 20, 1000)
    first, again, other = (buckets(lengths, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.cat(first).tolist() != torch.cat(other).tolist()
    assert {frozenset(rows.tolist()) for rows in first}.isdisjoint(frozenset(rows.tolist()) for rows in other)
    generator = torch.Generator().manual_seed(0)
    epochs = [length_buckets(lengths, 64, generator) for _ in range(2)]
    assert torch.cat(epochs[0]).tolist() != torch.cat(epochs[1]).tolist()


def test_buckets_hardly_pad():
    """Captions as long as COCO's, <start> and <end> included: shuffled they are padded by a third or more."""
    lengths = torch.from_numpy(2 + np.maximum(7, np.random.default_rng(0).poisson(10.5, 20_000)))
    shuffled = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).split(64)
    assert padding(lengths, shuffled) > 0.3
    assert padding(lengths, buckets(lengths, 0)) < 0.03


def test_the_order_of_buckets_is_no_order_of_lengths():
    """Short captions first and long ones last would be a curriculum that nobody asked for."""
    lengths = torch.from_numpy(np.random.default_rng(0).integers(3, 30, 20_000))
    means = [lengths[rows].float().mean() for rows in buckets(lengths, 0)]
    positions = torch.arange(len(means), dtype=torch.float)
    assert torch.corrcoef(torch.stack([torch.stack(means), positions]))[0, 1].abs() < 0.2


def test_eval_transform_crops_the_centre_and_normalises():
    picture = Image.new("RGB", (60, 20), (255, 0, 0))
    picture.paste((0, 255, 0), (20, 0, 40, 20))  # the central square
    pixels = EvalTransform(20)(picture)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for channel, value in enumerate((0.0, 1.0, 0.0)):
        expected = torch.full((20, 20), (value - mean[channel]) / std[channel])
        torch.testing.assert_close(pixels[channel], expected)


@pytest.mark.parametrize(
    "settings", [{}, {"jitter": 0}, {"hue": 0.1}, {"jitter": 1.0, "hue": 0.5, "quarter_turn": 0.5}, {"crop_scale": 1}]
)
def test_train_transform_gives_the_numbers_of_torchvision(settings):
    """Its colour jitter is another implementation: the same pixels to the last bit, in a third of the time."""
    transform = TrainTransform(32, vertical_flip=0.5, **settings)
    jitter = v2.ColorJitter(*[transform.jitter] * 3, transform.hue)
    steps = [jitter if isinstance(step, v2.ColorJitter) else step for step in transform.steps.transforms]
    torchvisions = v2.Compose(
        [*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(transform.mean, transform.std)]
    )
    rng = np.random.default_rng(0)
    for seed in range(40):
        picture = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((60, 50))
        with random_numbers(seed):
            expected = torchvisions(picture)
        with random_numbers(seed):
            assert torch.equal(transform(picture), expected)


@pytest.mark.parametrize(
    ("size", "loaded"),
    [
        ((640, 480), (320, 240)),
        ((480, 640), (240, 320)),
        ((1280, 960), (320, 240)),
        ((500, 375), (500, 375)),
        ((256, 256), (256, 256)),
    ],
)
def test_a_training_view_needs_as_many_pixels_as_a_mean_crop(tmp_path, size, loaded):
    """640 x 480 was decoded in full for a view of 224 x 224; an image to evaluate still is."""
    path = tmp_path / "photo.jpg"
    Image.new("RGB", size).save(path)
    assert TrainTransform(224).load(path).size == loaded
    assert EvalTransform(224).load(path).size == size


@pytest.mark.parametrize("transform", [EvalTransform(16), TrainTransform(16)], ids=["eval", "train"])
def test_a_normalised_batch_is_the_transform_of_each_of_its_images(examples, transform):
    """Workers hand over bytes, which are normalised where they are used; torchvision's transforms say what is right."""
    dataset = CaptionDataset([e for e in examples if e is not examples[3]], VOCABULARY, transform)
    batch = next(iter(build_loader(dataset, batch_size=5, num_workers=2, seed=7)))
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(transform.mean, transform.std)])
    found = transform.normalize(batch.inputs)
    assert found.is_contiguous()
    for row, image in enumerate(found):
        with random_numbers(7, row):
            picture = transform.load(dataset.paths[row])
            pixels = transform.steps(picture)
        assert torch.equal(image, expected(pixels.to(torch.uint8)))
    assert transform.normalize(batch.inputs[:0]).shape == (0, 3, 16, 16)


def test_flips_and_a_quarter_turn_show_all_eight_orientations_of_a_picture():
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    transform = TrainTransform(
        4, crop_scale=1, vertical_flip=0.5, quarter_turn=0.5, jitter=0, mean=(0,), std=(1 / 255,)
    )
    torch.manual_seed(0)
    seen = {tuple(transform(Image.fromarray(pixels))[0].round().int().flatten().tolist()) for _ in range(200)}
    turned = [np.rot90(each, turns) for each in (pixels, pixels[::-1]) for turns in range(4)]
    assert seen == {tuple(each[..., 0].ravel().tolist()) for each in turned}


def test_train_transform_without_augmentation_is_the_resized_picture():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    plain = TrainTransform(20, crop_scale=1, flip=0, jitter=0)(picture)
    torch.testing.assert_close(plain, EvalTransform(20)(picture))


def test_a_picture_that_claims_too_many_pixels_is_refused_before_decoding(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png: not a readable image"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"0" * 50])
def test_what_is_not_a_picture_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="a.png: not a readable image"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight(tmp_path, suffix):
    """Pillow's own conversion is white wherever there is more than 255 of 65,535."""
    values = np.array([[0, 255, 257, 0x1234, 0x7FFF, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert np.asarray(load_image(tmp_path / f"a.{suffix}"))[0, :, 0].tolist() == [0, 0, 1, 0x12, 0x7F, 255]


@pytest.mark.parametrize(("image_size", "expected"), [(0, 64), (48, 48)])
def test_the_picture_of_a_batch_has_the_size_that_training_has(
    image_size, expected, examples, tmp_path, monkeypatch, capsys
):
    """It once showed 224 px as "what the model will see", where the default train.py trains at 64."""
    monkeypatch.chdir(tmp_path)
    for example in examples[:2]:
        (tmp_path / "train").mkdir(exist_ok=True)
        example.image.rename(tmp_path / "train" / example.image.name)
    Path("captions.csv").write_text("image,caption\ntrain/0.jpg,a sun\ntrain/1.jpg,a cup\n", encoding="utf-8")
    save_vocabulary("v.pkl", VOCABULARY, {"sun": 1}, 1)
    monkeypatch.setitem(model.CONFIG, "encoder_weights", str(SHIPPED))
    titles = []
    monkeypatch.setattr(plots, "caption_grid", lambda *args, title, **more: titles.append(title))
    main({"data": CONFIG | {"data_dir": ".", "vocab_path": "v.pkl", "num_workers": 0, "image_size": image_size}})
    assert f"images (1, 3, {expected}, {expected})" in capsys.readouterr().out  # the other image is taken for val
    assert f"at {expected} px" in titles[0]
    assert ("data.image_size" if image_size else "pictograms.safetensors") in titles[0]
    # train.py's own choice, of the same function
    encoder = model.EncoderCNN("mobilenet_v2", 300)
    native = model.load_encoder_weights(encoder, "mobilenet_v2", str(SHIPPED))
    assert pick_image_size(image_size, native) == expected


def test_epochs_of_other_seeds_are_other_epochs():
    """seed * 10,000 + epoch once made epoch 10,000 of seed 0 the first of seed 1; torch uses 32 bits of a seed."""
    keys = [(0, 0), (0, 10_000), (1, 0), (3, 0), (3 + 2**28, 0), (3 + 2**31, 0)]
    assert len({mix_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= mix_seed(*key) < 2**32 for key in keys)


def rows_of(batches, **settings):
    """The rows of each batch of an epoch: captions, by their first word, or images."""
    by_caption = getattr(batches, "by_caption", False)
    return [(b.tokens[:, 1] if by_caption else b.index).tolist() for b in batches.epoch(**settings)]


@pytest.mark.parametrize("kind", ["captions", "images", "files"])
def test_samples_per_epoch_is_so_many_rows_drawn_anew_for_each_epoch(examples, kind):
    """An epoch that goes on after a stop has the batches that are left."""

    def batches(samples):
        if kind == "files":
            readable = [example for example in examples if example is not examples[3]]
            dataset = CaptionDataset(readable, VOCABULARY, TrainTransform(8))
            return ImageBatches(dataset, batch_size=2, num_workers=0, samples=samples)
        tokens = Captions([[1, 4 + 2 * image + number, 2] for number in range(2)] for image in range(20))
        labels, by_caption = torch.zeros(20), kind == "captions"
        return CachedBatches(torch.zeros(20, 1, 1), tokens, labels, 2, by_caption=by_caption, samples=samples)

    total = {"captions": 40, "images": 20, "files": 5}[kind]
    some = batches(3)
    assert (some.num_rows, len(some)) == (3, 2)
    epochs = [list(chain(*rows_of(some, seed=seed))) for seed in range(60)]
    assert all(len(set(rows)) == len(rows) == 3 for rows in epochs)
    assert len(set(chain(*epochs))) == total, "every row has its turn"
    assert rows_of(some, seed=7) == rows_of(some, seed=7)
    assert rows_of(some, seed=7, first=1) == rows_of(some, seed=7)[1:]
    for more in (0, total, total + 9):
        assert batches(more).num_rows == total
        assert len(set(chain(*rows_of(batches(more), seed=0)))) == total


def test_a_size_that_is_not_known_is_not_claimed(examples, tmp_path, monkeypatch, capsys):
    """Weights on a server are not fetched for a picture; their size was once given as 224."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").mkdir()
    examples[0].image.rename(tmp_path / "train" / "0.jpg")
    Path("captions.csv").write_text("image,caption\ntrain/0.jpg,a sun\n", encoding="utf-8")
    save_vocabulary("v.pkl", VOCABULARY, {"sun": 1}, 1)
    monkeypatch.setitem(model.CONFIG, "encoder_weights", "hf://owner/name")
    main({"data": CONFIG | {"data_dir": ".", "vocab_path": "v.pkl", "num_workers": 0}})
    assert "the default, as the size of encoder_weights hf://owner/name is not known here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ("imagenet", 224),
        ("none", 0),
        ("a.pth", 224),
        ("absent.safetensors", 0),
        ("https://127.0.0.1:9/a.safetensors", 0),
        ("checkpoints/pictograms.safetensors", 64),  # the shipped file, from wherever the script runs
        ("photos", 224),
    ],
)
def test_native_image_size_fetches_nothing(source, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model.native_image_size(source) == size


def test_script_names_the_folder_of_which_no_image_can_be_read(tmp_path):
    """It once drew the captions of no image, and ended in an IndexError."""
    (tmp_path / "train" / "x").mkdir(parents=True)
    (tmp_path / "train" / "x" / "1.jpg").write_bytes(b"")
    (tmp_path / "captions.csv").write_text("image,caption\ntrain/x/1.jpg,a sun\n", encoding="utf-8")
    save_vocabulary(tmp_path / "v.pkl", Vocabulary([*SPECIALS, "sun"]), {"sun": 1}, 1)
    config = CONFIG | {"data_dir": str(tmp_path), "vocab_path": str(tmp_path / "v.pkl"), "num_workers": 0}
    with pytest.raises(ValueError, match="none of the 1 images of a batch can be read"):
        main({"data": config})


def test_up_to_five_percent_may_be_unreadable(capsys):
    check_unreadable(["a.jpg: broken"] * 5, 100, "data")
    assert capsys.readouterr().out.count("a.jpg: broken; skipped") == 5
    with pytest.raises(ValueError, match="data: 6 of 100 images cannot be read"):
        check_unreadable(["a.jpg: broken"] * 6, 100, "data")


def test_exif_orientation_is_obeyed(tmp_path):
    """A phone stores a portrait as a landscape and says so in EXIF."""
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture.save(tmp_path / "phone.jpg", exif=exif)
    assert load_image(tmp_path / "phone.jpg").size == (20, 40)
