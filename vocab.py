"""Script 1: build the vocabulary from the captions of the train split.

    python vocab.py                                       # data/pictograms -> vocab_2.pkl
    python vocab.py --data_dir data/birds --min_count 5   # -> vocab_5.pkl
    python vocab.py --data_dir 'shards/train/{00000..00099}.tar' --min_count 5    # tar shards, see docs/scale.md
    python vocab.py --data_dir data/birds --tokenizer pieces --num_pieces 1000

Reads   the captions of `data_dir`, in any format that captioning/data/annotations.py knows
Writes  vocab_<min_count>.pkl, a pickle of built-in types only, and graphs/vocabulary.png

Only the train split counts: a word that occurs in val or test alone becomes <unk>, as it would in use.

The tokenizer stands in the vocabulary, and every checkpoint trained with it keeps it:
  words       for languages with blanks between words, English and Korean among them (captioning/data/tokenizer.py)
  characters  the same, but each character of a script without blanks (Chinese, Japanese, Thai ...) is a token
  pieces      words are cut into frequent pieces (captioning/data/pieces.py), so that rare and new words can be said:
              for languages whose words have many forms, Korean, Turkish or Finnish. Needs `pip install tokenizers`
              here; training and captioning do not
  auto        characters where the captions have text without blanks, else words; says which
Scores count words or characters, never pieces; so do the limits of a caption's length.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements.txt", "numpy", "tyro")

import io
import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np

from captioning import cli
from captioning.data.pieces import MARK, Splitter, learn_pieces
from captioning.data.tokenizer import (
    NAMES,
    WORDS,
    check_tokenizer,
    join_tokens,
    pick_unit,
    split_text,
    tokenize,
    tokenizer_name,
)
from captioning.files import check_file, replace_file
from captioning.metadata import bad_word, is_number
from captioning.search.options import SearchOptions
from captioning.search.pieces import Pieces
from captioning.untrusted import CONTROL

CONFIG = {
    # what
    "data_dir": "data/pictograms",  # dataset folder, annotation file, or tar shards
    "images_dir": "",  # folder of its pictures; "" = beside the captions
    "allow_missing": False,  # go on without pictures that are not there, however many
    "allow_links": False,  # follow symbolic links that lead out of the dataset's folder
    "min_count": 2,  # words with fewer occurrences in the train captions become <unk>
    "tokenizer": "auto",  # words | characters (Chinese, Japanese, Thai ...) | pieces | auto: by the captions
    "num_pieces": 4000,  # pieces at most, with tokenizer pieces
    "vocab_path": "",  # output; "" = vocab_<min_count>.pkl
    "graph_path": "graphs/vocabulary.png",  # figure of caption lengths and word frequencies
}

# Of the settings that are no numbers.
TYPES = dict.fromkeys(("data_dir", "images_dir", "tokenizer", "vocab_path", "graph_path"), str)
TYPES |= {"allow_missing": bool, "allow_links": bool}

LONG_SHARE = 0.1  # of the train captions; more that are longer than max_len are worth a warning
SPECIALS = ["<pad>", "<start>", "<end>", "<unk>"]
FORMAT = 2  # of format 1, which knew words alone, files are still read
SAMPLE = 20_000  # captions that the tokenizer is chosen by
LEAST_COVERAGE = 0.5  # of the running words of a split; with less, a line says so
MAX_FILE_BYTES = 64 * 2**20  # a vocabulary of a million words takes a third of it
MAX_INSTRUCTIONS = 5_000_000  # of its pickle; a million words take 4 million
MAX_CONTAINERS = 100  # dicts and lists in it, and how deep they may stand in each other


class Vocabulary:
    """The tokens a model can say; index = id.

    itos:      the tokens, the four specials first: <pad>, <start>, <end>, <unk>
    tokenizer: of captioning.data.tokenizer.check_tokenizer
    pieces:    what a search needs to count words where tokens are pieces of them; else None
    unit:      words | characters, what scores count

    A token in it is a word: `word in vocabulary` is True if the model can say it.
    Raises ValueError if the specials are not where they belong, a word stands twice, or the tokenizer is none.
    """

    def __init__(self, itos, tokenizer=WORDS):
        check_tokenizer(tokenizer)
        if list(itos[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"vocabulary: begins with {list(itos[:4])}, must begin with {SPECIALS}")
        self.itos = list(itos)
        self.stoi = {word: index for index, word in enumerate(self.itos)}
        if len(self.stoi) != len(self.itos):
            raise ValueError(f"vocabulary: {len(self.itos) - len(self.stoi)} words stand in it twice")
        self.pad_id, self.start_id, self.end_id, self.unk_id = range(len(SPECIALS))
        self.banned = (self.pad_id, self.start_id, self.unk_id)  # ids that no search may choose
        self.tokenizer, self.unit = dict(tokenizer), tokenizer["unit"]
        self.splitter = self.pieces = None
        if tokenizer["name"] == "pieces":
            self.splitter = Splitter(self.itos[len(SPECIALS) :], tokenizer["merges"])
            self.pieces = Pieces([word in SPECIALS or word.startswith(MARK) for word in self.itos])

    def __len__(self):
        return len(self.itos)

    def __contains__(self, word):
        return bool(self.splitter.split(word)) if self.splitter else word in self.stoi

    def encode(self, caption):
        """Return the ids of a caption, <start> and <end> included; an unknown word is <unk>."""
        tokens = tokenize(caption, self.unit)
        if self.splitter:
            tokens = [piece for word in tokens for piece in self.splitter.split(word) or SPECIALS[3:]]
        return [self.start_id, *(self.stoi.get(token, self.unk_id) for token in tokens), self.end_id]

    def decode(self, ids):
        """Return the text of `ids` as the language writes it; <pad>, <start> and <end> are left out."""
        silent = (self.pad_id, self.start_id, self.end_id)
        tokens = [self.itos[index] for index in ids if index not in silent]
        if self.splitter:
            tokens = "".join(f"{MARK}<unk>" if token == SPECIALS[3] else token for token in tokens).split(MARK)
        return join_tokens([token for token in tokens if token], self.unit)

    def words(self, text):
        """Return the words, or characters, of a text that `decode` made."""
        return split_text(text, self.unit)

    def by_word(self, ids, maps):
        """Return the mean of the tokens' maps for each word: (T, ...) for `ids`, T without specials -> (words, ...)."""
        if not self.pieces or not len(ids):
            return maps
        begins = self.pieces.begins[ids]
        begins[0] = True
        sizes = np.diff(np.append(np.flatnonzero(begins), len(ids)))
        return np.add.reduceat(maps, np.flatnonzero(begins)) / sizes.reshape(-1, *[1] * (maps.ndim - 1))


def count_words(captions, unit="words"):
    """Return (Counter of words, or characters, Counter of caption lengths in them)."""
    words, lengths = Counter(), Counter()
    for caption in captions:
        tokens = tokenize(caption, unit)
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


def pick_tokenizer(name, captions):
    """Return the tokenizer of a setting without merges, and what it was chosen for, in words.

    Raises ValueError for an unknown name.
    """
    if name not in (*NAMES, "auto"):
        raise ValueError(f"--tokenizer: got {name!r}, allowed are auto, {', '.join(NAMES)}")
    unit, reason = pick_unit(captions)
    if name == "auto":
        return {"name": unit, "unit": unit}, f"auto, as {reason}"
    return {"name": name, "unit": unit if name == "pieces" else name}, "as set"


def build_vocabulary(counts, min_count, tokenizer=WORDS, num_pieces=CONFIG["num_pieces"]):
    """Return the Vocabulary of the words seen at least `min_count` times, most frequent first.

    tokenizer: of pick_tokenizer. With pieces the vocabulary has these, and characters seen fewer times become <unk>

    A word with control characters, which a damaged file may hold, becomes <unk>: checkpoints with such are refused.
    """
    if min_count < 1:
        raise ValueError(f"min_count: got {min_count}, allowed is 1 or more")
    counts = {word: count for word, count in counts.items() if not CONTROL.search(word)}
    if tokenizer["name"] == "pieces":
        pieces, merges = learn_pieces(counts, num_pieces, min_count)
        return Vocabulary(SPECIALS + pieces, tokenizer | {"merges": merges})
    known = [word for word, count in counts.items() if count >= min_count]
    words = sorted(known, key=lambda word: (-counts[word], word))
    return Vocabulary(SPECIALS + words, tokenizer)


def coverage(counts, vocabulary):
    """Return the share of running words, 0 to 1, that the vocabulary knows."""
    known = sum(count for word, count in counts.items() if word in vocabulary)
    return known / max(1, sum(counts.values()))


def advice(name, min_count):
    """Return what may help where a vocabulary covers little; name: of its tokenizer."""
    ways = [f"a --min_count below {min_count}"] * (min_count > 1) + ["--tokenizer pieces"] * (name != "pieces")
    return f"{' or '.join(ways)} may help" if ways else "train has too few captions"


def save_vocabulary(path, vocabulary, counts, min_count):
    """Write the vocabulary as a pickle of a plain dict; the old file stays until the new one is complete."""
    content = {"format": FORMAT, "min_count": min_count, "itos": vocabulary.itos, "counts": dict(counts)}
    content["tokenizer"] = vocabulary.tokenizer
    with replace_file(path) as temporary:
        temporary.write_bytes(pickle.dumps(content))


def load_vocabulary(path, data=None):
    """Read a Vocabulary written by `save_vocabulary`.

    data: the flags of the dataset that it is for, to be advised with

    Raises ValueError if the file is missing, asks for any code (a pickle can), or is not a vocabulary. Instructions
    that `save_vocabulary` does not write are refused: a few hundred bytes of them can take all the memory there is.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"vocab_path: got {str(path)!r}, a folder; the name of a file is needed")
    if not path.is_file():
        advice = cli.command("vocab.py", {**(data or {}), "vocab_path": path})
        raise ValueError(f"{path}: no such vocabulary; `{advice}` builds one")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, a vocabulary has at most {MAX_FILE_BYTES}")
    try:
        written = path.read_bytes()
        if not written.startswith(pickle.PROTO):  # a text can begin with the letter of an instruction
            raise ValueError("it does not begin as a pickle does")
        content = PlainUnpickler(io.BytesIO(written)).load()
        if not isinstance(content, dict):
            raise ValueError("it is not a dict")
        if not is_number(content["format"], int) or content["format"] not in range(1, FORMAT + 1):
            raise ValueError(f"its format is not one of 1 to {FORMAT}, which this version reads")
        if not isinstance(content["itos"], list) or not all(isinstance(word, str) for word in content["itos"]):
            raise ValueError("itos holds something other than words")
        if problem := bad_word(content["itos"]):
            raise ValueError(problem)
        return Vocabulary(content["itos"], WORDS if content["format"] == 1 else content["tokenizer"])
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
    from captioning.data.examples import CaptionTexts
    from captioning.data.tars import ShardCaptions, find_shards, is_shards

    if is_shards(config["data_dir"]):
        return {"train": ShardCaptions(find_shards([config["data_dir"]]))}, None
    dataset = load_dataset(config["data_dir"], **picture_settings(config))
    return {split: CaptionTexts(examples) for split, examples in dataset.splits.items()}, dataset


def main(config):
    """Count the train captions, save the vocabulary, and show what it covers."""
    from captioning import plots  # slow to import, and a Vocabulary alone needs it not
    from captioning.data.annotations import data_flags
    from captioning.scores.grounding import Grounder, naming_share, naming_warning
    from captioning.scores.variety import one_for_all

    config = cli.settings_of(config, "vocab")
    path = Path(config["vocab_path"] or f"vocab_{config['min_count']}.pkl")
    if path.exists():
        load_vocabulary(path)  # refuses to let anything else be overwritten
    check_file(path)
    plots.check_figure(config["graph_path"])
    captions, dataset = read_captions(config)
    grounder = Grounder(dataset.classes, dataset.aliases) if dataset else None  # refuses wrong aliases
    train = captions.get("train", ())
    tokenizer, reason = pick_tokenizer(config["tokenizer"], list(itertools.islice(train, SAMPLE)))
    unit = tokenizer["unit"]
    counts, lengths = count_words(train, unit)
    if not lengths:
        raise ValueError(f"{config['data_dir']}: no captions in its train split, which the vocabulary is built from")
    vocabulary = build_vocabulary(counts, config["min_count"], tokenizer, config["num_pieces"])
    save_vocabulary(path, vocabulary, counts, config["min_count"])
    plots.vocabulary_figure(lengths, counts, config["graph_path"], min_count=config["min_count"], unit=unit)

    if not dataset:  # shards, of which samples may have been left out
        for line in train.warnings():
            print(line)
    print(f"tokenizer        {tokenizer_name(tokenizer)} ({reason})")
    print(f"train captions   {sum(lengths.values()):,}, {sum(counts.values()):,} {unit}, {len(counts):,} different")
    print(f"vocabulary       {len(vocabulary):,} ({len(SPECIALS)} specials, min_count {config['min_count']})")
    warnings = [length_warning(lengths)]
    if dataset:
        warnings.append(one_for_all(train, "train"))
    for split in ("train", "val"):
        if split in captions:
            share = coverage(counts if split == "train" else count_words(captions[split], unit)[0], vocabulary)
            print(f"coverage {split:<7} {share:.2%} of the running {unit}")
            if share < LEAST_COVERAGE:
                ways = advice(tokenizer["name"], config["min_count"])
                warnings.append(f"most {unit} of {split} become <unk>; {ways}")
    if dataset:
        share = naming_share(dataset.splits["train"], grounder)
        warnings.append(naming_warning(share, dataset.root))
    for line in filter(None, warnings):
        print(f"warning: {line}")
    print("most frequent    " + ", ".join(f"{word} {count:,}" for word, count in counts.most_common(12)))
    flags = {**data_flags(config), "vocab_path": str(path)}
    other = {flag: value for flag, value in flags.items() if value not in (CONFIG["data_dir"], "vocab_2.pkl")}
    print(f"wrote {path} and {config['graph_path']}; next: {cli.command('data_loader.py', other)}")


if __name__ == "__main__":
    limits = {"min_count": (1, 2**31), "num_pieces": (1, 1_000_000)}
    cli.run(main, {"vocab": limits | TYPES}, vocab=CONFIG)
