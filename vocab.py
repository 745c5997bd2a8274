"""Script 1: build the vocabulary from the captions of the train split.

    python vocab.py                                       # data/pictograms -> vocab_2.pkl
    python vocab.py --data_dir data/birds --min_count 5   # -> vocab_5.pkl
    python vocab.py --data_dir 'shards/train/{00000..00099}.tar' --min_count 5    # tar shards, see docs/scale.md

Reads   the captions of `data_dir`, in any format that captioning/data/annotations.py knows
Writes  vocab_<min_count>.pkl, a pickle of built-in types only, and graphs/vocabulary.png

Only the train split counts: a word that occurs in val or test alone becomes <unk>, as it would in use.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import io
import pickle
from collections import Counter
from pathlib import Path

from captioning import cli
from captioning.data.tokenizer import tokenize
from captioning.files import check_file, replace_file
from captioning.metadata import bad_word, is_number
from captioning.search.options import SearchOptions
from captioning.untrusted import CONTROL

CONFIG = {
    # what
    "data_dir": "data/pictograms",  # dataset folder, annotation file, or tar shards
    "images_dir": "",  # folder of its pictures; "" = beside the captions
    "allow_missing": False,  # go on without pictures that are not there, however many
    "min_count": 2,  # words with fewer occurrences in the train captions become <unk>
    "vocab_path": "",  # output; "" = vocab_<min_count>.pkl
    "graph_path": "graphs/vocabulary.png",  # figure of caption lengths and word frequencies
}

LONG_SHARE = 0.1  # of the train captions; more that are longer than max_len are worth a warning
SPECIALS = ["<pad>", "<start>", "<end>", "<unk>"]
FORMAT = 1
MAX_FILE_BYTES = 64 * 2**20  # a vocabulary of a million words takes a third of it
MAX_INSTRUCTIONS = 5_000_000  # of its pickle; a million words take 4 million
MAX_CONTAINERS = 100  # dicts and lists in it, and how deep they may stand in each other


class Vocabulary:
    """The words a model can say; index = id.

    itos: the words, the four specials first: <pad>, <start>, <end>, <unk>
    Raises ValueError if the specials are not where they belong, or a word stands twice.
    """

    def __init__(self, itos):
        if list(itos[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"vocabulary: begins with {list(itos[:4])}, must begin with {SPECIALS}")
        self.itos = list(itos)
        self.stoi = {word: index for index, word in enumerate(self.itos)}
        if len(self.stoi) != len(self.itos):
            raise ValueError(f"vocabulary: {len(self.itos) - len(self.stoi)} words stand in it twice")
        self.pad_id, self.start_id, self.end_id, self.unk_id = range(len(SPECIALS))
        self.banned = (self.pad_id, self.start_id, self.unk_id)  # ids that no search may choose

    def __len__(self):
        return len(self.itos)

    def encode(self, caption):
        """Return the ids of a caption, <start> and <end> included; an unknown word is <unk>."""
        words = [self.stoi.get(word, self.unk_id) for word in tokenize(caption)]
        return [self.start_id, *words, self.end_id]

    def decode(self, ids):
        """Return the words of `ids` joined by blanks; <pad>, <start> and <end> are left out."""
        silent = (self.pad_id, self.start_id, self.end_id)
        return " ".join(self.itos[index] for index in ids if index not in silent)


def count_words(captions):
    """Return (Counter of words, Counter of caption lengths in words)."""
    words, lengths = Counter(), Counter()
    for caption in captions:
        tokens = tokenize(caption)
        words.update(tokens)
        lengths[len(tokens)] += 1
    return words, lengths


def length_warning(lengths, max_len=SearchOptions.max_len, split="train"):
    """Return a line if many captions are longer than a model says, else "".

    lengths: Counter of the lengths of a split's captions in words
    max_len: tokens of the longest caption that is said, <end> included
    """
    longer = sum(count for length, count in lengths.items() if length >= max_len)
    if longer <= LONG_SHARE * lengths.total():
        return ""
    return (
        f"{longer / lengths.total():.0%} of the {split} captions have more than {max_len - 1} words (the longest "
        f"{max(lengths):,}), but captions are said with at most {max_len - 1}; raise max_len (up to 200)"
    )


def build_vocabulary(counts, min_count):
    """Return the Vocabulary of the words seen at least `min_count` times, most frequent first.

    A word with control characters, which a damaged file may hold, becomes <unk>: checkpoints with such are refused.
    """
    if min_count < 1:
        raise ValueError(f"min_count: got {min_count}, allowed is 1 or more")
    known = [word for word, count in counts.items() if count >= min_count and not CONTROL.search(word)]
    words = sorted(known, key=lambda word: (-counts[word], word))
    return Vocabulary(SPECIALS + words)


def coverage(counts, vocabulary):
    """Return the share of running words, 0 to 1, that the vocabulary knows."""
    known = sum(count for word, count in counts.items() if word in vocabulary.stoi)
    return known / max(1, sum(counts.values()))


def save_vocabulary(path, vocabulary, counts, min_count):
    """Write the vocabulary as a pickle of a plain dict; the old file stays until the new one is complete."""
    content = {"format": FORMAT, "min_count": min_count, "itos": vocabulary.itos, "counts": dict(counts)}
    with replace_file(path) as temporary:
        temporary.write_bytes(pickle.dumps(content))


def load_vocabulary(path):
    """Read a Vocabulary written by `save_vocabulary`.

    Raises ValueError if the file is missing, asks for any code (a pickle can), or is not a vocabulary. Instructions
    that `save_vocabulary` does not write are refused: a few hundred bytes of them can take all the memory there is.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"vocab_path: got {str(path)!r}, a folder; the name of a file is needed")
    if not path.is_file():
        raise ValueError(f"{path}: no such vocabulary; `python vocab.py --vocab_path {path}` builds one")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, a vocabulary has at most {MAX_FILE_BYTES}")
    try:
        written = path.read_bytes()
        if not written.startswith(pickle.PROTO):  # a text can begin with the letter of an instruction
            raise ValueError("it does not begin as a pickle does")
        content = PlainUnpickler(io.BytesIO(written)).load()
        if not isinstance(content, dict):
            raise ValueError("it is not a dict")
        if not is_number(content["format"], int) or content["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}, which this version reads")
        if not isinstance(content["itos"], list) or not all(isinstance(word, str) for word in content["itos"]):
            raise ValueError("itos holds something other than words")
        if problem := bad_word(content["itos"]):
            raise ValueError(problem)
        return Vocabulary(content["itos"])
    except CodeInPickleError as error:
        raise ValueError(f"{path}: refused, this pickle carries code ({error})") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path}: not a vocabulary of this project ({cli.one_line(error, 160)})") from None


class CodeInPickleError(Exception):
    """A pickle names a function or class."""


def numbers(names):
    """Return {number of the letter that stands for it in a file: name} of instructions of a pickle."""
    return {getattr(pickle, name)[0]: name for name in names}


class PlainUnpickler(pickle._Unpickler):
    """An unpickler of dicts, lists, strings and whole numbers; what else a pickle may ask for is refused.

    In Python: the one in C makes a table as long as the largest number in its file says, 32 GB for ten bytes. Tuples
    are not known: they may be keys, and one that holds itself in two places, forty levels deep, is hashed for ever.
    """

    KNOWN = (
        *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"),
    )
    CODE = (
        *("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"),
        *("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
    )

    def __init__(self, file):
        super().__init__(file)
        self.dispatch = self  # load() asks it for the function of each instruction
        self.functions = {number: pickle._Unpickler.dispatch[number] for number in numbers(self.KNOWN)}
        self.code = numbers(self.CODE)
        self.num_instructions = self.num_containers = 0

    def __getitem__(self, instruction):
        """Return the function of an instruction, the number of its letter. Raises CodeInPickleError or ValueError."""
        self.num_instructions += 1
        self.num_containers += instruction in (pickle.EMPTY_DICT[0], pickle.EMPTY_LIST[0])
        if instruction in self.code:
            raise CodeInPickleError(f"the instruction {self.code[instruction]}")
        if instruction not in self.functions:
            raise ValueError(f"it has the instruction {bytes([instruction])!r}, which no vocabulary needs")
        if self.num_instructions > MAX_INSTRUCTIONS or max(self.num_containers, len(self.metastack)) > MAX_CONTAINERS:
            raise ValueError("it has more instructions or lists than any vocabulary")
        return self.functions[instruction]


def read_captions(config):
    """Return (split -> an iterable of its captions, the Dataset).

    Tar shards are all train, and are read as they are counted; they are no Dataset, and None stands for it.
    """
    from captioning.data.annotations import load_dataset, picture_settings
    from captioning.data.tars import ShardCaptions, find_shards, is_shards

    if is_shards(config["data_dir"]):
        return {"train": ShardCaptions(find_shards([config["data_dir"]]))}, None
    dataset = load_dataset(config["data_dir"], **picture_settings(config))
    captions = {split: [text for e in group for text in e.captions] for split, group in dataset.splits.items()}
    return captions, dataset


def main(config):
    """Count the train captions, save the vocabulary, and show what it covers."""
    from captioning import plots  # slow to import, and a Vocabulary alone needs it not
    from captioning.data.annotations import data_flags
    from captioning.scores.grounding import Grounder, naming_share, naming_warning

    config = config["vocab"]
    path = Path(config["vocab_path"] or f"vocab_{config['min_count']}.pkl")
    if path.exists():
        load_vocabulary(path)  # refuses to let anything else be overwritten
    check_file(path)
    plots.check_figure(config["graph_path"])
    captions, dataset = read_captions(config)
    counts, lengths = count_words(captions.get("train", ()))
    if not lengths:
        raise ValueError(f"{config['data_dir']}: no captions in its train split, which the vocabulary is built from")
    vocabulary = build_vocabulary(counts, config["min_count"])
    save_vocabulary(path, vocabulary, counts, config["min_count"])
    plots.vocabulary_figure(lengths, counts, config["graph_path"], min_count=config["min_count"])

    for line in getattr(captions["train"], "failed", [])[:5]:
        print(f"warning: {line}; skipped")
    print(f"train captions   {sum(lengths.values()):,}, {sum(counts.values()):,} words, {len(counts):,} different")
    print(f"vocabulary       {len(vocabulary):,} ({len(SPECIALS)} specials, min_count {config['min_count']})")
    print(f"coverage train   {coverage(counts, vocabulary):.2%} of the running words")
    if "val" in captions:
        print(f"coverage val     {coverage(count_words(captions['val'])[0], vocabulary):.2%} of the running words")
    warnings = [length_warning(lengths)]
    if dataset:
        share = naming_share(dataset.splits["train"], Grounder(dataset.classes, dataset.aliases))
        warnings.append(naming_warning(share, dataset.root))
    for line in filter(None, warnings):
        print(f"warning: {line}")
    print("most frequent    " + ", ".join(f"{word} {count:,}" for word, count in counts.most_common(12)))
    flags = {**data_flags(config), "vocab_path": str(path)}
    other = {flag: value for flag, value in flags.items() if value not in (CONFIG["data_dir"], "vocab_2.pkl")}
    print(f"wrote {path} and {config['graph_path']}; next: {cli.command('data_loader.py', other)}")


if __name__ == "__main__":
    cli.run(main, {"vocab": {"min_count": (1, 2**31)}}, vocab=CONFIG)
