"""Script 5: caption a whole split and report how good the captions are, in words, tables and figures.

    python analysis_report.py                                  # val split of data/pictograms -> reports/mobile/
    python analysis_report.py --split test                     # -> reports/mobile_test/
    python analysis_report.py --model_path checkpoints/pictograms.safetensors --beam_size 1

Reads   the checkpoint, and the images, captions and classes of `data_dir`
Writes  reports/<run>/: report.md, and as CSV the images, the classes, the summary, the best and worst classes and
        the confusion matrix, with figures. Data without classes gets the caption part alone.

A caption is right if the first class that it names is the true one. Every score carries its recipe, the settings it
depends on. The folder's files are replaced together, when all of them are complete.
"""

import os
import tempfile
from pathlib import Path

from captioning import cli, plots, report
from captioning.annotations import dataset_name, dataset_root, load_aliases, load_examples
from captioning.evaluation import caption_examples, caption_scores, recipe
from captioning.grounding import Grounder, confusion
from captioning.runtime import pick_device
from data_loader import eval_transform
from model import load_captioner

CONFIG = {
    # what
    "model_path": "checkpoints/mobile.safetensors",  # written by train.py
    "data_dir": "data/pictograms",  # folder or annotation file
    "split": "val",  # train | val | test
    "output": "",  # folder; "" = reports/<run>, for another split than val reports/<run>_<split>
    # decoding
    "beam_size": 5,  # 1 = greedy
    "max_len": 30,  # words of the longest caption
    "length_penalty": 0.7,  # the log-probability is divided by length ** this
    # speed
    "batch_size": 64,  # images
    "num_workers": 2,  # processes that read images; 0 = none
    "device": "",  # "" = cuda, mps or cpu, the first there is
}


def report_folder(output, model_path, split):
    """Return the folder of the report. Raises ValueError if it is a file."""
    run = Path(model_path).stem
    folder = Path(output or Path("reports", run if split == "val" else f"{run}_{split}"))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output: {folder} is a file, must be a folder or a new name")
    return folder


def build_tables(predictions, *, root, classes, aliases, beam_size):
    """Return the DataFrames of the report by name; without classes "images" and "summary" alone.

    classes: all that a caption can name, [] = the data has none; aliases: class -> further words that name it
    """
    hypotheses, references = report.token_lists(predictions)
    fewest, most = (limit(len(captions) for captions in references) for limit in (min, max))
    spread = f"{most}" if fewest == most else f"{fewest}-{most}"

    def recipe_of(metric, count, names="yes"):
        text = recipe(metric, references=spread, beam_size=beam_size, count=count)
        return f"{text}|aliases:{names}" if aliases and metric in report.CLASS_METRICS else text

    images = report.image_table(predictions, root, Grounder(classes, aliases) if classes else None)
    summary = report.summary_table(images, caption_scores(hypotheses, references), recipe_of)
    if not classes:
        return {"images": images, "summary": summary}
    labelled = images[images["class"] != ""]
    if aliases:
        plain = Grounder(classes)
        found = [
            plain.name(caption) == label for caption, label in zip(labelled["caption"], labelled["class"])
        ]
        row = ["average accuracy", sum(found) / len(found), recipe_of("accuracy", len(found), "no")]
        summary = pd.concat([summary[:1], pd.DataFrame([row], columns=summary.columns), summary[1:]])
    true, named = labelled["class"].tolist(), report.named_classes(labelled)
    matrix = confusion(true, named, sorted({*true, *named} - {""}))
    by_class = report.class_table(images, hypotheses, references)
    return {
        "images": images,
        "summary": summary,
        "classes": by_class,
        "top_bottom": report.extreme_classes(by_class),
        "confusion": matrix,
        "mistakes": report.frequent_mistakes(matrix),
    }


def reference_accuracy(predictions, classes, aliases):
    """Return the share of the reference captions that name the class of their own image first: a yardstick."""
    grounder = Grounder(classes, aliases)
    pairs = [
        (p.example.label, caption) for p in predictions for caption in p.example.captions if p.example.label
    ]
    return sum(grounder.name(caption) == label for label, caption in pairs) / max(1, len(pairs))


def write_report(folder, text, tables, title):
    """Write the report's files; those that are there are replaced when all the new ones are complete."""
    folder.mkdir(parents=True, exist_ok=True)
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
        for file in report.FILES:
            if (new / file).exists():
                os.replace(new / file, folder / file)
            else:  # an earlier report on other data had it
                (folder / file).unlink(missing_ok=True)


def main(config):
    """Caption the split, score it, write the report and print its summary."""
    config = config["report"]
    model_path, data_dir, split = config["model_path"], config["data_dir"], config["split"]
    folder = report_folder(config["output"], model_path, split)
    device = pick_device(config["device"])
    model, vocabulary, checkpoint = load_captioner(model_path, device)
    examples = load_examples(data_dir, split)
    predictions = caption_examples(
        model,
        vocabulary,
        examples,
        eval_transform(**checkpoint.transform),
        device=device,
        **{
            key: config[key]
            for key in ("beam_size", "max_len", "length_penalty", "batch_size", "num_workers")
        },
    )

    own_classes = sorted({prediction.example.label for prediction in predictions} - {""})
    classes = sorted({*own_classes, *checkpoint.classes}) if own_classes else []
    aliases = load_aliases(data_dir) if own_classes else {}
    root = dataset_root(Path(data_dir))
    tables = build_tables(
        predictions, root=root, classes=classes, aliases=aliases, beam_size=config["beam_size"]
    )

    read = {prediction.example.image for prediction in predictions}
    unreadable = [report.relative_path(e.image, root) for e in examples if e.image not in read]
    words = [word for p in predictions for caption in p.example.captions for word in tokenize(caption)]
    notes = report.reservations(
        tables,
        unreadable=unreadable,
        unseen=[name for name in own_classes if name not in checkpoint.classes],
        known_words=sum(word in vocabulary.stoi for word in words) / max(1, len(words)),
    )
    run, data = Path(model_path).stem, dataset_name(data_dir)
    facts = report.findings(
        tables,
        subject=f"{run} captioned the {split} split of {data} with beam {config['beam_size']}",
        reference_accuracy=reference_accuracy(predictions, classes, aliases),
    )
    title = f"{run} on {data}, {split} split"
    write_report(folder, report.report_text(title, facts, notes, tables), tables, title)

    for metric, value, recipe_text in tables["summary"].itertuples(index=False):
        print(f"{metric:<21} {value:.4f}   {recipe_text}")
    for note in notes:
        print(f"note: {note}")
    print(f"wrote {folder}/: begin with report.md")
    print(f"next: python test_inference.py --model_path {model_path} --data_dir {data_dir}")


if __name__ == "__main__":
    cli.run(main, report=CONFIG)
