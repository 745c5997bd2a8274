"""Script 5: caption a whole split and report how good the captions are, in words, tables and figures.

    python analysis_report.py                  # val split of data/pictograms -> reports/mobile/
    python analysis_report.py --split test     # -> reports/mobile_test/
    python analysis_report.py --model_path checkpoints/pictograms.safetensors --beam_size 1

Reads   the checkpoint, and the images, captions and classes of `data_dir`
Writes  reports/<run>/, <run> being the checkpoint's name: report.md, and beside it the images, the classes,
        the summary, the best and worst classes and the confusion matrix as CSV, some of them as figures.
        Data without classes gets the caption part alone.

A caption is right if the first class that it names is the true one. Every score carries its recipe, what it
depends on. The files in the folder are replaced together, when all the new ones are complete.
"""

import os
import tempfile
from pathlib import Path

import pandas as pd

from caption import Captioner
from captioning import cli, decoding, plots, report
from captioning.annotations import check_split, dataset_name, dataset_root, load_aliases, load_examples
from captioning.decoding import SETTINGS, SearchOptions
from captioning.evaluation import caption_examples, caption_scores, java_scores, recipe
from captioning.grounding import confusion
from captioning.tokenizer import tokenize

CONFIG = {
    # what
    "model_path": "checkpoints/mobile.safetensors",  # .safetensors | .onnx | https://... | hf://owner/name
    "data_dir": "data/pictograms",  # folder or annotation file
    "split": "val",  # train | val | test
    "output": "",  # folder; "" = reports/<run>, for another split than val reports/<run>_<split>
    # decoding: beam_size, max_len, min_len, length_penalty, no_repeat_ngram, as captioning/decoding.py tells
    **SETTINGS,
    # scores
    "java_metrics": False,  # True: METEOR and SPICE too, as far as java and pycocoevalcap are there; minutes
    # speed
    "batch_size": 64,  # images
    "num_workers": 2,  # threads that read images; 0 = one
    "device": "",  # "" = cuda, mps or cpu, the first there is
}


def report_folder(output, model_path, split):
    """Return the folder of the report. Raises ValueError if a file stands in its place."""
    run = Path(model_path).stem
    folder = Path(output or Path("reports", run if split == "val" else f"{run}_{split}"))
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"output: {path} is a file, give another folder")
    return folder


def build_tables(predictions, *, root, beam_size, grounder=None, plain_grounder=None, more_scores=None):
    """Return the DataFrames of the report by name; without a grounder "images" and "summary" alone.

    root:           folder that the images' paths are written relative to
    plain_grounder: one without the aliases, where `grounder` has some: the accuracy is reported by both
    more_scores:    name in report.JAVA_METRICS -> value
    """
    hypotheses, references = report.token_lists(predictions)
    fewest, most = min(map(len, references)), max(map(len, references))

    def recipe_of(metric, count, aliases="yes"):
        number = f"{most}" if fewest == most else f"{fewest}-{most}"
        text = recipe(metric, references=number, beam_size=beam_size, count=count)
        return f"{text}|aliases:{aliases}" if plain_grounder and metric in report.CLASS_METRICS else text

    images = report.image_table(predictions, root, grounder)
    scores = caption_scores(hypotheses, references) | (more_scores or {})
    summary = report.summary_table(images, scores, recipe_of)
    if not grounder:
        return {"images": images, "summary": summary}
    if plain_grounder:
        named = [plain_grounder.name(p.caption) == p.example.label for p in predictions if p.example.label]
        row = [report.METRICS["accuracy"], sum(named) / len(named), recipe_of("accuracy", len(named), "no")]
        plain = pd.DataFrame([row], columns=summary.columns)
        summary = pd.concat([summary[:1], plain, summary[1:]], ignore_index=True)
    by_class = report.class_table(images, hypotheses, references)
    matrix = confusion(*report.true_and_named(images))
    return {
        "images": images,
        "summary": summary,
        "classes": by_class,
        "top_bottom": report.extreme_classes(by_class),
        "confusion": matrix,
        "mistakes": report.frequent_mistakes(matrix),
    }


def reference_accuracy(predictions, grounder):
    """Return the share of the reference captions that name their image's class first: a yardstick."""
    labelled = [p.example for p in predictions if p.example.label]
    named = [grounder.name(caption) == e.label for e in labelled for caption in e.captions]
    return sum(named) / len(named)


def write_report(folder, text, tables, title):
    """Write the report's files; those that are there are replaced when all the new ones are complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        new = Path(name)
        for table in ("summary", "images", "classes", "top_bottom"):
            if table in tables:
                tables[table].to_csv(new / f"{table}.csv", index=False, float_format="%.6f")
        if "classes" in tables:
            tables["confusion"].to_csv(new / "confusion.csv", index_label="class")
            plots.class_figure(tables["classes"], new / "classes.png", title=title)
            plots.confusion_figure(tables["confusion"], new / "confusion.png", title=title)
        (new / "report.md").write_text(text, encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for file in report.FILES:
            if (new / file).exists():
                os.replace(new / file, folder / file)
            else:  # an earlier report on other data had it
                (folder / file).unlink(missing_ok=True)


def main(config):
    """Caption the split, score it, write the report and print its summary."""
    config = config["report"]
    model_path, data_dir, split = config["model_path"], config["data_dir"], config["split"]
    check_split(split)
    run, data, root = Path(model_path).stem, dataset_name(data_dir), dataset_root(Path(data_dir))
    folder = report_folder(config["output"], model_path, split)
    options = SearchOptions(**{name: config[name] for name in SETTINGS})
    captioner = Captioner.load(model_path, device=config["device"])
    examples = load_examples(data_dir, split)
    # A caption may name any class of the data, not only those of the split.
    labels = {example.label for example in load_examples(data_dir)}
    grounder, plain_grounder = report.build_grounders(labels, captioner.model.classes, load_aliases(data_dir))

    predictions = caption_examples(
        captioner,
        examples,
        options=options,
        batch_size=config["batch_size"],
        num_workers=config["num_workers"],
    )
    if not any(prediction.example.label for prediction in predictions):
        grounder = plain_grounder = None
    more_scores, skipped = java_scores(*report.token_lists(predictions)) if config["java_metrics"] else ({}, {})
    tables = build_tables(
        predictions,
        root=root,
        beam_size=options.beam_size,
        grounder=grounder,
        plain_grounder=plain_grounder,
        more_scores=more_scores,
    )

    read = {prediction.example.image for prediction in predictions}
    words = [word for p in predictions for caption in p.example.captions for word in tokenize(caption)]
    notes = report.reservations(
        tables,
        unreadable=[report.relative_path(e.image, root) for e in examples if e.image not in read],
        unseen=sorted({example.label for example in examples} - {*captioner.model.classes, ""}),
        known_words=sum(word in captioner.vocabulary.stoi for word in words) / max(1, len(words)),
        skipped=skipped,
    )
    facts = report.findings(
        tables,
        subject=f"{run} captioned the {split} split of {data} with beam {options.beam_size}",
        reference_accuracy=reference_accuracy(predictions, grounder) if grounder else 0.0,
    )
    title = f"{run} on {data}, {split} split"
    write_report(folder, report.report_text(title, facts, notes, tables), tables, title)

    for metric, value, how in tables["summary"].itertuples(index=False):
        print(f"{metric:<21} {value:.4f}   {how}")
    for note in notes:
        print(f"note: {note}")
    print(f"wrote {folder / 'report.md'} and the tables and figures that it names")
    print(f"next: python test_inference.py --model_path {model_path} --data_dir {data_dir}")


if __name__ == "__main__":
    limits = decoding.LIMITS | {"batch_size": (1, 65536), "num_workers": (0, 256)}
    cli.run(main, {"report": limits}, report=CONFIG)
