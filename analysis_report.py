"""Script 5: caption a whole split and report how good the captions are, in words, tables and figures.

    python analysis_report.py                  # val split of data/pictograms -> reports/mobile/
    python analysis_report.py --split test     # -> reports/mobile_test/
    python analysis_report.py --model_path checkpoints/pictograms.safetensors --beam_size 1
    python analysis_report.py --compare checkpoints/a.safetensors checkpoints/b.safetensors  # -> reports/a_vs_b/

Reads   the checkpoint, and the images, captions and classes of `data_dir`
Writes  reports/<run>/, <run> being the checkpoint's name: report.html, one page that needs nothing else, the same
        as report.md, and beside it every table as CSV and every figure as PNG, which captioning/report/sections.py
        lists.
        Data without classes gets the parts about captions alone.

A caption is right if the first class that it names is the true one. Every score carries its recipe, what it
depends on, and its 95 % bootstrap interval over the images. Two checkpoints are compared on the same images. The
files in the folder are replaced together, when all the new ones are complete.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from caption import Captioner, TorchModel, model_name
from captioning import cli, plots
from captioning.data import audit
from captioning.data.annotations import check_split, dataset_name, dataset_root, load_aliases, load_examples
from captioning.data.images import load_image
from captioning.data.tokenizer import tokenize
from captioning.evaluation import caption_examples, encode_images
from captioning.files import check_folder
from captioning.report import document, sections, sentences, yardsticks
from captioning.report import tables as report
from captioning.runtime import pick_device, pick_workers
from captioning.scores import bootstrap
from captioning.scores.grounding import Grounder, confusion
from captioning.scores.recipes import caption_scores, java_scores, recipe
from captioning.search import options as search_options
from captioning.search.options import SETTINGS, SearchOptions
from data_loader import eval_transform
from model import image_vector
from vocab import SPECIALS

CONFIG = {
    # what
    "model_path": "checkpoints/mobile.safetensors",  # .safetensors (several: a,b) | .onnx | https://... | hf://owner/name
    "compare": [""],  # two checkpoints to compare instead; "" = none
    "data_dir": "data/pictograms",  # folder or annotation file
    "split": "val",  # train | val | test
    "output": "",  # folder; "" = reports/<run>, for another split than val reports/<run>_<split>
    # decoding: beam_size, max_len, min_len, length_penalty, no_repeat_ngram, consensus: captioning/search/options.py
    **SETTINGS,
    # scores
    "java_metrics": False,  # True: METEOR and SPICE too, as far as java and pycocoevalcap are there; minutes
    # beside the captions
    "probe_images": 50,  # of each class in train that a plain classifier learns from; 0 = no plain classifier
    "imagenet_weights": "",  # torchvision state_dict of mobilenet_v2: ImageNet's own classifier too; "" = without
    "audit": True,  # look for copies of images in all splits; False = look at the captions alone
    # speed
    "batch_size": 64,  # images
    "num_workers": 2,  # threads or processes that read images
    "device": "",  # "" = cuda, mps or cpu, the first there is
}


def report_folder(output, run, split):
    """Return the folder of the report. Raises ValueError if no report can be written there."""
    folder = Path(output or Path("reports", run if split == "val" else f"{run}_{split}"))
    check_folder(folder)
    check_folder(folder.parent)  # where the new report is made
    return folder


# ---- tables --------------------------------------------------------------------------------------------


def build_tables(
    predictions,
    *,
    root,
    options,
    grounder=None,
    plain_grounder=None,
    more_scores=None,
    trained=frozenset(),
    vocabulary_size=0,
    probed=None,
):
    """Return the DataFrames of the report by name; without a grounder those about captions alone.

    root:            folder that the images' paths are written relative to
    options:         SearchOptions that the captions were found with
    plain_grounder:  one without the aliases, where `grounder` has some: the accuracy is reported by both
    more_scores:     name in report.JAVA_METRICS -> value
    trained:         set of the token tuples of train's captions
    vocabulary_size: words that the model can say, the specials left out
    probed:          the class that a plain classifier names for each prediction
    """
    hypotheses, references = report.token_lists(predictions)
    recipe_of = recipe_writer(references, options, has_aliases=bool(plain_grounder))
    images = report.image_table(predictions, root, grounder)
    counts = report.count_scores(images, hypotheses, references)
    draws = bootstrap.resample(lambda weights: bootstrap.all_scores(counts, weights), len(images))
    scores = caption_scores(hypotheses, references) | (more_scores or {})
    summary = report.summary_table(images, scores, recipe_of, draws)
    tables = {
        "images": images,
        "summary": summary,
        "references": report.reference_table(hypotheses, references),
        "language": report.language_table(hypotheses, references, trained, vocabulary_size),
        "calibration": report.calibration_table(images),
    }
    if not grounder:
        return tables
    if plain_grounder:
        right = [plain_grounder.name(p.caption) == p.example.label for p in predictions if p.example.label]
        low, high = bootstrap.mean_interval(np.array(right, float))
        row = [report.METRICS["accuracy"], np.mean(right), recipe_of("accuracy", len(right), "no"), low, high]
        plain = pd.DataFrame([row], columns=summary.columns)
        tables["summary"] = pd.concat([summary[:1], plain, summary[1:]], ignore_index=True)
    class_draws = report.draw_class_scores(counts)
    by_class = report.class_table(images, hypotheses, references, counts, class_draws)
    by_class["reference_naming"] = by_class["class"].map(report.reference_naming(predictions, grounder))
    if probed:
        by_class["probe"] = by_class["class"].map(report.class_accuracy(images["class"], probed))
    matrix = confusion(*report.true_and_named(images))
    return {
        **tables,
        "classes": by_class,
        "top_bottom": report.extreme_classes(by_class),
        "groups": report.group_table(by_class, counts, class_draws),
        "confusion": matrix,
        "mistakes": report.frequent_mistakes(matrix),
        "cases": report.case_table(predictions, grounder),
        "nested": report.nested_table(images, grounder),
        "relations": report.relation_table(by_class),
        "diagnosis": report.diagnosis_table(by_class, images),
    }


def recipe_writer(references, options, *, has_aliases):
    """Return a function (metric, number of images, aliases "yes" or "no") -> what a score of it depends on.

    references: for each image a list; options: the SearchOptions; has_aliases: whether the data have some, which class
    metrics depend on
    """
    fewest, most = min(map(len, references)), max(map(len, references))
    number = f"{most}" if fewest == most else f"{fewest}-{most}"

    def recipe_of(metric, count, aliases="yes"):
        text = recipe(metric, references=number, options=options, count=count)
        return f"{text}|aliases:{aliases}" if has_aliases and metric in report.CLASS_METRICS else text

    return recipe_of


def reference_accuracy(predictions, grounder):
    """Return the share of the reference captions that name their image's class first: a yardstick."""
    labelled = [p.example for p in predictions if p.example.label]
    named = [grounder.name(caption) == e.label for e in labelled for caption in e.captions]
    return sum(named) / len(named)


# ---- the classifiers beside the captions -------------------------------------------------------------------


def probe_classes(encoder, transform, train, examples, **reading):
    """Return the class of each example by a plain classifier on the encoder's features; "" = its image is unreadable.

    train:   examples with a class, from which the classifier learns
    reading: device, batch_size, num_workers of evaluation.encode_images
    """
    paths = [example.image for example in train]
    kept, features = encode_images(encoder, paths, transform, **reading, bar="learning the classes")
    features = image_vector(features)
    labels = [train[row].label for row in kept.tolist()]
    paths = [example.image for example in examples]
    rows, found = encode_images(encoder, paths, transform, **reading, bar="telling the classes")
    named = [""] * len(examples)
    for row, label in zip(rows.tolist(), yardsticks.linear_probe(features, labels, image_vector(found)), strict=True):
        named[row] = label
    return named


def imagenet_rows(path, grounder, examples, **reading):
    """Return ([the yardstick row of ImageNet's own classifier], [a note]); no row below two classes."""
    categories = yardsticks.imagenet_classes(grounder)
    known = sorted(set(categories) & {example.label for example in examples} - {""})
    if len(known) < 2:
        number = report.counted(len(known), "class")
        return [], [f"ImageNet's own classifier was left out: it tells two or more classes apart, and knows {number}."]
    network = yardsticks.load_imagenet(path).to(reading["device"])
    shown = [example for example in examples if example.label in known]
    columns = [index for index, label in enumerate(categories) if label in known]
    paths = [example.image for example in shown]
    transform = eval_transform(yardsticks.IMAGENET_SIZE)
    rows, logits = encode_images(network, paths, transform, **reading, bar="asking ImageNet")
    named = [categories[columns[best]] for best in logits[:, columns].argmax(dim=1).tolist()]
    true = [shown[row].label for row in rows.tolist()]
    note = f"among the {report.counted(len(known), 'class')} that are ImageNet categories: {', '.join(known)}"
    return [("ImageNet's own classifier", true, named, None, note)], []


def yardstick_rows(predictions, grounder, probed, train):
    """Return the rows of report.yardstick_table that need no further network.

    probed: the class that a plain classifier names for each prediction, None = there is none
    train:  the examples of train
    """
    labelled = [(row, p) for row, p in enumerate(predictions) if p.example.label]
    true = [p.example.label for _, p in labelled]
    rows = [("the captions", true, [grounder.name(p.caption) for _, p in labelled], None, "")]
    theirs = [[grounder.name(caption) for caption in p.example.captions] for _, p in labelled]
    each = [label for label, names in zip(true, theirs, strict=True) for _ in names]
    shares = [np.mean([name == label for name in names]) for label, names in zip(true, theirs, strict=True)]
    flat = [name for names in theirs for name in names]
    rows.append(("reference captions", each, flat, np.array(shares), "the ceiling: what the captions allow"))
    if probed:
        names = [probed[row] for row, _ in labelled]
        rows.append(("plain classifier", true, names, None, "logistic regression on the encoder's pooled features"))
    if majority := yardsticks.majority_class([example.label for example in train]):
        rows.append(("majority class", true, [majority] * len(true), None, f"the floor: always {majority}"))
    return rows


# ---- writing -------------------------------------------------------------------------------------------


def draw_figures(folder, tables, galleries, title):
    """Draw the figures of the report into a folder."""
    plots.reference_figure(tables["references"], folder / "references.png", title=title)
    plots.calibration_figure(tables["calibration"], folder / "calibration.png", title=title)
    images = tables["images"]
    theirs = [len(tokenize(text)) for texts in images["references"] for text in texts.split(" | ")]
    lengths = {"the model's": [len(text.split()) for text in images["caption"]], "the references'": theirs}
    plots.length_figure(lengths, folder / "lengths.png", title=title)
    for gallery in galleries.values():
        pictures = [load_image(path, 2 * document.THUMBNAIL) for path in gallery.images]
        plots.caption_grid(pictures, gallery.lines, folder / gallery.file, columns=5, title=f"{gallery.text}: {title}")
    if "classes" in tables:
        plots.class_figure(tables["classes"], folder / "classes.png", title=title)
        plots.confusion_figure(tables["confusion"], folder / "confusion.png", title=title)
        groups = dict(zip(tables["top_bottom"]["class"], tables["top_bottom"]["group"], strict=True))
        groups = [groups.get(name, "") for name in tables["classes"]["class"]]
        plots.class_scatter(tables["classes"].assign(group=groups), folder / "scatter.png", title=title)
        rows = tables["yardsticks"].rename(columns={"classifier": "name", "accuracy": "value"})
        plots.interval_figure(rows, folder / "yardsticks.png", title=title, xlabel="accuracy, 95 % intervals")


def write_tables(folder, tables):
    """Write the tables that the report's files name as CSV."""
    for name, table in tables.items():
        if name == "confusion":
            table.to_csv(folder / "confusion.csv", index_label="class")
        elif f"{name}.csv" in sections.FILES:
            table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")


def write_report(folder, title, tables, texts, galleries):
    """Write the report's files; those that are there are replaced when all the new ones are complete."""
    with replaced_files(folder, sections.FILES) as new:
        write_tables(new, tables)
        draw_figures(new, tables, galleries, title)
        names = {path.name for path in new.iterdir()} | {"report.md", "report.html"}
        parts = [*sections.build_sections(tables, texts, galleries), sections.file_section(names)]
        write_document(new, title, parts)


def write_document(folder, title, parts):
    """Write sections as report.md and report.html into a folder that has their figures."""
    (folder / "report.md").write_text(document.markdown(title, parts), encoding="utf-8")
    (folder / "report.html").write_text(document.html(title, parts, folder), encoding="utf-8")


@contextmanager
def replaced_files(folder, names):
    """Give an empty folder to write; its files go into `folder` when the block ends well.

    names: every file that may be written; what an earlier report had and this one has not is removed
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        new = Path(name)
        yield new
        folder.mkdir(exist_ok=True)
        for file in names:
            if (new / file).exists():
                os.replace(new / file, folder / file)
            else:
                (folder / file).unlink(missing_ok=True)


def print_summary(summary):
    """Print a summary or a comparison, a line for each metric."""
    for row in summary.itertuples(index=False):
        interval = "" if np.isnan(row.low) else f"{row.low:.4f} to {row.high:.4f}"
        print(f"{row.metric:<21} {row.value:.4f}   {interval:<17}  {row.recipe}")


# ---- one model, or two -----------------------------------------------------------------------------------


def caption_split(model_path, examples, options, config):
    """Return (predictions, Captioner) of a model on examples."""
    captioner = Captioner.load(model_path, device=config["device"])
    predictions = caption_examples(
        captioner, examples, options=options, batch_size=config["batch_size"], num_workers=config["num_workers"]
    )
    return predictions, captioner


def learn_classes(captioner, train, captioned, num_images, reading, split):
    """Ask a plain classifier on the encoder's features: (its class of each example or None, what to say about it).

    train:      the examples that it may learn from, of which it takes `num_images` of each class
    captioned:  the examples of `split`
    reading:    device, batch_size and num_workers
    """
    if split == "train":
        return None, "The plain classifier was left out: it would be asked about the images that it learned from."
    learned = yardsticks.draw_per_class(train, num_images)
    has_encoder = isinstance(captioner.model, TorchModel)
    if not num_images or not learned or not has_encoder:
        reason = "probe_images is 0" if not num_images else "no images with a class in train"
        reason = reason if has_encoder else "it needs one .safetensors model, whose encoder gives it features"
        return None, f"The plain classifier was left out: {reason}."
    transform = eval_transform(**captioner.model.transform)
    named = probe_classes(captioner.model.network.encoder.backbone, transform, learned, captioned, **reading)
    number = report.counted(len(learned), "image")
    return named, f"The plain classifier learned from {number} of train, at most {num_images} of each class."


def look_through(examples, silent, config, root):
    """Return the Audit of a dataset, its copies' paths relative to `root`; None where it was not asked for."""
    if not config["audit"]:
        return None
    found = audit.audit_examples(examples, silent, num_workers=max(1, config["num_workers"]))
    for column in ("image", "copy_of"):
        found.copies[column] = [report.relative_path(path, root) for path in found.copies[column]]
    return found


def report_on(model_path, config):
    """Caption the split, score it, write the report and print its summary."""
    data_dir, split = config["data_dir"], config["split"]
    run, data, root = model_name(model_path), dataset_name(data_dir), dataset_root(Path(data_dir))
    folder = report_folder(config["output"], run, split)
    options = SearchOptions(**{name: config[name] for name in SETTINGS})
    device = pick_device(config["device"])
    if config["imagenet_weights"]:
        yardsticks.load_imagenet(config["imagenet_weights"])  # a wrong file is refused before an hour of captioning
    examples, everything = load_examples(data_dir, split), load_examples(data_dir)
    predictions, captioner = caption_split(model_path, examples, options, config)
    # A caption may name any class of the data, not only those of the split.
    labels = {example.label for example in everything}
    grounder, plain_grounder = report.build_grounders(labels, captioner.model.classes, load_aliases(data_dir))
    if not any(prediction.example.label for prediction in predictions):
        grounder = plain_grounder = None
    more_scores, skipped = java_scores(*report.token_lists(predictions)) if config["java_metrics"] else ({}, {})

    train = [example for example in everything if example.split == "train"]
    num_workers = pick_workers(config["num_workers"], device)
    reading = {"device": device, "batch_size": config["batch_size"], "num_workers": num_workers}
    captioned = [prediction.example for prediction in predictions]
    probed, lines = None, []
    if grounder:
        probed, line = learn_classes(captioner, train, captioned, config["probe_images"], reading, split)
        lines.append(line)

    tables = build_tables(
        predictions,
        root=root,
        options=options,
        grounder=grounder,
        plain_grounder=plain_grounder,
        more_scores=more_scores,
        trained={tuple(tokenize(caption)) for example in train for caption in example.captions},
        vocabulary_size=len(captioner.vocabulary) - len(SPECIALS),
        probed=probed,
    )
    if grounder:
        rows = []
        more = ["ImageNet's own classifier was left out: checkpoints do not hold it, and imagenet_weights is empty."]
        if config["imagenet_weights"]:
            rows, more = imagenet_rows(config["imagenet_weights"], grounder, captioned, **reading)
        tables["yardsticks"] = report.yardstick_table([*yardstick_rows(predictions, grounder, probed, train), *rows])
        lines += more
    found = look_through(everything, [], config, root)
    if found:
        tables |= {"audit": found.table, "copies": found.copies}

    read, taught = {prediction.example.image for prediction in predictions}, Grounder(captioner.model.classes)
    words = [word for p in predictions for caption in p.example.captions for word in tokenize(caption)]
    notes = sentences.reservations(
        tables,
        unreadable=[report.relative_path(e.image, root) for e in examples if e.image not in read],
        unseen=sorted({example.label for example in examples if example.label and not taught.label(example.label)}),
        absent=sorted(labels - {example.label for example in examples}),
        known_words=sum(word in captioner.vocabulary.stoi for word in words) / max(1, len(words)),
        skipped=skipped,
    )
    facts = sentences.findings(
        tables,
        subject=f"{run} captioned the {split} split of {data} with {options.text()}",
        reference_accuracy=reference_accuracy(predictions, grounder) if grounder else 0.0,
    )
    warnings = audit.warnings(found, split) if found else ["The data was not looked through: audit is off."]
    notes += [line for line in warnings if found]
    texts = {
        **sentences.section_texts(tables),
        "facts": facts,
        "notes": notes,
        "yardsticks": lines,
        "data": warnings or ["No copies of earlier splits' images, and few captions that stand in train."],
    }
    galleries = build_galleries(tables, captioned)
    write_report(folder, f"{run} on {data}, {split} split", tables, texts, galleries)

    print_summary(tables["summary"])
    for note in [*texts["bleu"], *texts["diagnoses"], *notes]:
        print(f"note: {note}")
    print(f"wrote {folder / 'report.html'}, report.md and the tables and figures that they name")
    print(f"next: python test_inference.py --model_path {model_path} --data_dir {data_dir}")


def build_galleries(tables, examples):
    """Return name -> document.Gallery of the best, the worst and, where there are mistakes, the confused captions."""
    paths, images = [example.image for example in examples], tables["images"]
    galleries = {
        "best": sections.extreme_gallery(images, paths, "best.png", best=True),
        "worst": sections.extreme_gallery(images, paths, "worst.png", best=False),
    }
    if len(tables.get("mistakes", ())):
        galleries["mistakes"] = sections.mistake_gallery(tables["mistakes"], images, paths)
    return galleries


def compare(model_paths, config):
    """Caption the split with two checkpoints, and write and print how they differ."""
    data_dir, split = config["data_dir"], config["split"]
    names = [model_name(path) for path in model_paths]
    folder = report_folder(config["output"], "_vs_".join(names), split)
    if names[0] == names[1]:
        names = [f"{name} ({place})" for name, place in zip(names, ("first", "second"), strict=True)]
    options = SearchOptions(**{name: config[name] for name in SETTINGS})
    examples = load_examples(data_dir, split)
    sides, classes = [], []
    for path in model_paths:
        predictions, captioner = caption_split(path, examples, options, config)
        sides.append(predictions)
        classes += captioner.model.classes
    labels = {example.label for example in load_examples(data_dir)}
    grounder, plain_grounder = report.build_grounders(labels, list(dict.fromkeys(classes)), load_aliases(data_dir))
    if not any(example.label for example in examples):
        grounder = None

    root = dataset_root(Path(data_dir))
    images = [report.image_table(predictions, root, grounder) for predictions in sides]
    counts = report.count_both(images, *(report.token_lists(predictions) for predictions in sides))
    recipe_of = recipe_writer(
        report.token_lists(sides[0])[1], options, has_aliases=grounder is not None and bool(plain_grounder)
    )
    table = report.comparison_table(bootstrap.paired_differences(*counts), images[0], recipe_of)
    lines = sentences.verdicts(table, *names)
    lines += sentences.disagreement(*images, *names)
    title = f"{names[0]} against {names[1]} on {dataset_name(data_dir)}, {split} split"
    shown = table.rename(columns={"first": names[0], "second": names[1]})
    subject = (
        f"Both captioned the same {report.counted(len(images[0]), 'image')} with {options.text()}. Differences "
        f"are {names[0]} minus {names[1]}, with 95 % intervals of a paired bootstrap over the images; p is two-sided."
    )
    with replaced_files(folder, sections.COMPARISON_FILES) as new:
        table.to_csv(new / "comparison.csv", index=False, float_format="%.6f")
        sections.both_captions(*images).to_csv(new / "images.csv", index=False, float_format="%.6f")
        rows = table.assign(name=table["metric"], value=table["difference"])
        rows = rows[rows["metric"] != "CIDEr-D"]  # whose scale is ten times the others'
        label = f"{names[0]} minus {names[1]}, 95 % intervals"
        plots.interval_figure(rows, new / "comparison.png", title=title, xlabel=label)
        write_document(new, title, sections.comparison_sections(shown, subject, lines, sections.both_captions(*images)))
    for line in lines:
        print(line)
    print(f"wrote {folder / 'report.html'}, report.md, comparison.csv, comparison.png and images.csv")


def main(config):
    """Report on one checkpoint, or compare two."""
    config = config["report"]
    check_split(config["split"])
    paths = [path for path in config["compare"] if path]
    if len(paths) not in (0, 2):
        raise ValueError(f"compare: got {report.counted(len(paths), 'checkpoint')}, allowed are two")
    if paths:
        compare(paths, config)
    else:
        report_on(config["model_path"], config)


if __name__ == "__main__":
    limits = search_options.LIMITS | {"batch_size": (1, 65536), "num_workers": (0, 256), "probe_images": (0, 100_000)}
    cli.run(main, {"report": limits}, report=CONFIG)
