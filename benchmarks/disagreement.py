"""How often captions say a person, a colour or a number that no reference has: a floor on what a model makes up.

    python benchmarks/disagreement.py --data_dir <flickr8k> --model_path photos

A word of a kind (man, woman, boy, girl; colours; numbers) disagrees if none of the image's references has a word of the
same meaning. The same is asked of the references themselves, each against the others of its image, of which there is
one fewer. Only words count, no further model: a wrong verb or object is not seen. The last line is JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import json

from caption import Captioner
from captioning import cli
from captioning.data.annotations import load_dataset
from captioning.data.tokenizer import tokenize
from captioning.evaluation import caption_examples
from captioning.markup import markdown_table

CONFIG = {
    "data_dir": "data/flickr8k",  # dataset whose images have several captions
    "split": "test",
    "model_path": "photos",
}
PEOPLE = {
    "man": "man men guy guys gentleman",
    "woman": "woman women lady ladies",
    "boy": "boy boys",
    "girl": "girl girls",
}
COLOURS = "black white red blue green yellow brown orange pink purple gray/grey gold/golden tan silver blond/blonde"
NUMBERS = "one/1 two/2/couple/pair three/3 four/4 five/5 six/6"
KINDS = {
    "person": {word: name for name, words in PEOPLE.items() for word in words.split()},
    "colour": {word: group for group in COLOURS.split() for word in group.split("/")},
    "number": {word: group for group in NUMBERS.split() for word in group.split("/")},
}


def meanings(tokens, kind):
    """Return the set of what the words of a kind mean in a caption."""
    return {KINDS[kind][word] for word in tokens if word in KINDS[kind]}


def share_of_disagreement(pairs, kind):
    """Return (share 0..1, number) of the words of a kind that no other caption has.

    pairs: (tokens of a caption, token lists of those that it is held against)
    """
    said = disagreeing = 0
    for tokens, others in pairs:
        known = set().union(*(meanings(other, kind) for other in others))
        words = meanings(tokens, kind)
        said += len(words)
        disagreeing += len(words - known)
    return disagreeing / max(1, said), said


def main(config):
    """Print the shares in Markdown, and as JSON."""
    config = config["disagreement"]
    captioner = Captioner.load(config["model_path"])
    examples = load_dataset(config["data_dir"], config["split"]).splits[config["split"]]
    predictions = caption_examples(captioner, examples, options=captioner.search_options())
    references = [[tokenize(text) for text in p.example.captions] for p in predictions]
    model = [(p.caption.split(), group) for p, group in zip(predictions, references, strict=True)]
    people = [(one, group[:i] + group[i + 1 :]) for group in references for i, one in enumerate(group)]
    rows, found = [], {}
    for kind in KINDS:
        ours, theirs = share_of_disagreement(model, kind), share_of_disagreement(people, kind)
        found[kind] = {"model": ours, "references": theirs}
        rows.append([kind, *(f"{share:.1%} of {count:,}" for share, count in (ours, theirs))])
    print(markdown_table(["words for a", "the model's, in no reference", "a reference's, in no other"], rows))
    print(json.dumps({"bench": "disagreement", "images": len(predictions), "results": found}))


if __name__ == "__main__":
    cli.run(main, disagreement=CONFIG)
