"""The vocabulary: counted over train alone, and a file that cannot run code."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import vocab
from vocab import (
    CONFIG,
    MAX_CONTAINERS,
    MAX_INSTRUCTIONS,
    SPECIALS,
    PlainUnpickler,
    Vocabulary,
    build_vocabulary,
    count_words,
    coverage,
    length_warning,
    load_vocabulary,
    main,
    save_vocabulary,
)

CAPTIONS = ["A red sun.", "a red cup", "two suns"]


def test_words_by_count_then_alphabet():
    counts, lengths = count_words(CAPTIONS)
    assert build_vocabulary(counts, 1).itos == [*SPECIALS, "a", "red", "cup", "sun", "suns", "two"]
    assert build_vocabulary(counts, 2).itos == [*SPECIALS, "a", "red"]
    assert lengths == {3: 2, 2: 1}


def test_a_word_with_control_characters_is_unknown():
    """A terminal would obey it when a caption is printed."""
    counts, _ = count_words(["a \x1bred \x9b31m cup"])
    assert build_vocabulary(counts, 1).itos == [*SPECIALS, "a", "cup"]


def test_encode_and_decode():
    vocabulary = build_vocabulary(count_words(CAPTIONS)[0], 1)
    ids = vocabulary.encode("A red moon!")
    assert ids == [vocabulary.start_id, 4, 5, vocabulary.unk_id, vocabulary.end_id]
    assert vocabulary.decode([*ids, vocabulary.pad_id]) == "a red <unk>"


def test_coverage_counts_running_words():
    counts, _ = count_words(CAPTIONS)
    assert coverage(counts, build_vocabulary(counts, 2)) == pytest.approx(4 / 8)


def test_min_count_below_one_is_refused():
    with pytest.raises(ValueError, match="min_count: got 0, allowed is 1 or more"):
        build_vocabulary({}, 0)


def test_a_vocabulary_begins_with_the_specials_and_has_no_word_twice():
    with pytest.raises(ValueError, match="must begin with"):
        Vocabulary(["a", "b"])
    with pytest.raises(ValueError, match="1 words stand in it twice"):
        Vocabulary([*SPECIALS, "a", "a"])


def test_the_file_is_a_plain_pickle_and_reads_back(tmp_path):
    counts, _ = count_words(CAPTIONS)
    vocabulary = build_vocabulary(counts, 1)
    save_vocabulary(tmp_path / "v.pkl", vocabulary, counts, 1)
    assert load_vocabulary(tmp_path / "v.pkl").itos == vocabulary.itos
    content = pickle.loads((tmp_path / "v.pkl").read_bytes())
    tokenizer = {"name": "words", "unit": "words"}
    expected = {"format": 2, "min_count": 1, "itos": vocabulary.itos, "counts": dict(counts), "tokenizer": tokenizer}
    assert content == expected


class Code:
    """An object whose pickle runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_carries_code_is_refused_and_not_run(tmp_path):
    (tmp_path / "v.pkl").write_bytes(pickle.dumps({"format": 1, "itos": Code(f"touch {tmp_path}/ran")}))
    with pytest.raises(ValueError, match="v.pkl: refused, this pickle carries code"):
        load_vocabulary(tmp_path / "v.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_small_pickle_cannot_ask_for_much_memory(tmp_path):
    """Nine bytes that store a list under the number 2**26 once took 1 GB, and 2**31 more than there was."""
    (tmp_path / "v.pkl").write_bytes(b"\x80\x04]r" + (2**26).to_bytes(4, "little") + b".")
    script = (
        "import resource, vocab\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: vocab.load_vocabulary('v.pkl')\n"
        "except ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    line, kilobytes = result.stdout.splitlines()
    assert line.startswith("v.pkl: not a vocabulary of this project")
    assert int(kilobytes) < 100_000


def nested(levels, begin=b")"):
    """Instructions that leave a tuple of two, each of its halves the same tuple of two, `levels` deep."""
    return begin + b"2\x86" * levels


SMALL_BOMBS = {
    "a tuple without end as a key": b"\x80\x04}" + nested(40) + b"K\x01s.",
    "as the format": b"\x80\x04}\x8c\x06format" + nested(60) + b"s.",
    "as the words": b"\x80\x04}(\x8c\x06formatK\x01\x8c\x04itos" + nested(60) + b"u.",
    "lists in each other": b"\x80\x04" + b"]\x94(h\x00" * 200 + b".",
    "marks without end": b"\x80\x04" + b"(" * 3_000_000,
    "numbers without end": b"\x80\x04" + b"K\x01" * 6_000_000,
    "lists without end": b"\x80\x04" + b"]" * 3_000_000,
    "a frame of 2**63 bytes": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f",
    "a string of 2**32 bytes": b"\x80\x04X\xff\xff\xff\xff",
    "a list that holds itself as words": b"\x80\x04}(\x8c\x06formatK\x01\x8c\x04itos]\x94h\x00au.",
    "a set": pickle.dumps({"format": 1, "itos": {"a"}}),
    "a float": pickle.dumps({"format": 1.0, "itos": SPECIALS}),
    "true, which is no number": pickle.dumps({"format": True, "itos": SPECIALS}),
    "bytes": pickle.dumps({"format": 1, "itos": [b"a"]}),
    "an escape sequence": pickle.dumps({"format": 1, "itos": [*SPECIALS, "\x1b[2J"]}),
    "text that runs backwards": pickle.dumps({"format": 1, "itos": [*SPECIALS, "a\u202eb"]}),
    "half a character": pickle.dumps({"format": 1, "itos": [*SPECIALS, "a\ud800"]}),
    "a thousand words, none of them a special": pickle.dumps({"format": 1, "itos": ["x" * 9] * 1000}),
}


@pytest.mark.parametrize("name", SMALL_BOMBS)
def test_a_pickle_that_would_never_end_is_refused_at_once(tmp_path, monkeypatch, name):
    """The hash and the repr of such a tuple take time without end; a mark, a list of its own."""
    (tmp_path / "v.pkl").write_bytes(SMALL_BOMBS[name])
    readers = []
    monkeypatch.setattr(vocab, "PlainUnpickler", lambda file: readers.append(PlainUnpickler(file)) or readers[0])
    with pytest.raises(ValueError, match="v.pkl: (not a vocabulary of this project|vocabulary: begins)") as error:
        load_vocabulary(tmp_path / "v.pkl")
    assert all(reader.num_instructions <= MAX_INSTRUCTIONS + 1 for reader in readers)
    assert all(len(reader.metastack) <= MAX_CONTAINERS + 1 for reader in readers)
    assert len(str(error.value)) < 300 + len(str(tmp_path))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "code", [b"cos\nsystem\n.", b"\x8c\x02os\x8c\x06system\x93.", b"Ppid\n.", b"\x82\x01.", b"(ios\nsystem\n."]
)
def test_every_way_to_name_code_is_told_as_one(tmp_path, code):
    (tmp_path / "v.pkl").write_bytes(b"\x80\x04" + code)
    with pytest.raises(ValueError, match="v.pkl: refused, this pickle carries code"):
        load_vocabulary(tmp_path / "v.pkl")


def test_the_instructions_of_a_large_vocabulary_are_known(tmp_path):
    """Counts of every size, words of every length, more of both than one batch or one short number holds."""
    counts = {f"w{n}": n for n in range(1, 3000)} | {"x" * 300: 2**31, "새": 2**40, "": 70_000}
    vocabulary = Vocabulary([*SPECIALS, *counts])
    save_vocabulary(tmp_path / "v.pkl", vocabulary, counts, 1)
    assert load_vocabulary(tmp_path / "v.pkl").itos == vocabulary.itos


@pytest.mark.parametrize(
    "content",
    [b"", b"not a pickle", pickle.dumps([1]), pickle.dumps({"format": 2, "itos": []}), pickle.dumps({"format": 1})],
)
def test_anything_else_is_named(tmp_path, content):
    (tmp_path / "v.pkl").write_bytes(content)
    with pytest.raises(ValueError, match="v.pkl: not a vocabulary of this project"):
        load_vocabulary(tmp_path / "v.pkl")


def test_a_missing_file_says_what_builds_it(tmp_path):
    with pytest.raises(ValueError, match="python vocab.py"):
        load_vocabulary(tmp_path / "v.pkl")


def test_words_of_val_and_test_alone_stay_unknown(tmp_path):
    """A vocabulary counted over all splits would know words that no training has seen."""
    rows = ["image,caption"]
    for split, word in (("train", "sun"), ("val", "moon"), ("test", "star")):
        (tmp_path / "data" / split / "sky").mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / split / "sky" / f"{number}.jpg")
            rows.append(f"{split}/sky/{number}.jpg,the {word}")
    (tmp_path / "data" / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    config = CONFIG | {"data_dir": str(tmp_path / "data"), "min_count": 2}
    config |= {"vocab_path": str(tmp_path / "v.pkl"), "graph_path": str(tmp_path / "v.png")}
    main({"vocab": config})
    assert load_vocabulary(tmp_path / "v.pkl").itos == [*SPECIALS, "sun", "the"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_vocabulary_is_named_in_one_line(tmp_path, share):
    counts, _ = count_words(CAPTIONS)
    save_vocabulary(tmp_path / "v.pkl", build_vocabulary(counts, 1), counts, 1)
    content = (tmp_path / "v.pkl").read_bytes()
    (tmp_path / "v.pkl").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="v.pkl: not a vocabulary of this project") as error:
        load_vocabulary(tmp_path / "v.pkl")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_vocabulary_is_never_overwritten(tmp_path):
    """`vocab.py --vocab_path captions.csv` once replaced the captions by a pickle."""
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\n", encoding="utf-8")
    config = CONFIG | {"data_dir": str(tmp_path), "vocab_path": str(path), "graph_path": "g.png"}
    with pytest.raises(ValueError, match=r"captions\.csv: not a vocabulary"):
        main({"vocab": config})
    assert path.read_text(encoding="utf-8") == "image,caption\n"


def test_captions_longer_than_a_model_says_are_warned_of():
    """Captions of 200 words were cut at 30 without a word."""
    _, lengths = count_words(["a word " * 100] * 3 + ["a red cup"] * 7)
    line = length_warning(lengths)
    assert line.startswith("30% of the train captions have more than 29 words (the longest 200), but captions are said")
    assert length_warning(lengths, max_len=200).startswith("30%")
    assert length_warning(lengths, max_len=201) == ""
    assert length_warning(count_words(["a red cup"])[1]) == ""


def test_a_vocabulary_that_is_missing_is_built_of_the_data_that_it_is_for(tmp_path):
    """The advice built that of data/pictograms, and broke at a blank in a name."""
    told = r"no such vocabulary; `python vocab.py --data_dir '.*my data' --vocab_path '.*v 1.pkl'` builds one$"
    with pytest.raises(ValueError, match=told):
        load_vocabulary(tmp_path / "v 1.pkl", {"data_dir": tmp_path / "my data"})
