"""Script 5: caption a whole split and report how good the captions are, in words, tables and figures.

    python analysis_report.py                  # val split of data/pictograms -> reports/mobile/
    python analysis_report.py --split test     # -> reports/mobile_test/
    python analysis_report.py --model_path checkpoints/pictograms.safetensors --beam_size 1
    python analysis_report.py --compare checkpoints/a.safetensors checkpoints/b.safetensors  # -> reports/a_vs_b/
    torchrun --standalone --nproc-per-node=2 analysis_report.py    # several processes caption, one scores

Reads   the checkpoint, and the images, captions and classes of `data_dir`
Writes  reports/<run>/, <run> being the checkpoint's name: report.html, one page that needs nothing else, the same
        as report.md, and beside it every table as CSV and every figure as PNG, which captioning/report/sections.py
        lists. Data without classes gets the parts about captions alone.

A caption is right if the first class that it names is the true one. Every score carries its recipe, what it
depends on, and its 95 % bootstrap interval over the images. Two to ten models are compared on the same images, each
pair by one primary score. The files in the folder are replaced together, when all the new ones are complete.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements.txt", "torch", "tyro")

import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from caption import Captioner, TorchModel, model_name, split_sources
from captioning import cli, plots
from captioning.cli import counted
from captioning.data import audit
from captioning.data.annotations import data_flags, load_dataset, picture_settings
from captioning.data.images import load_image
from captioning.data.splits import check_split
from captioning.data.tokenizer import Tokens
from captioning.deploy.downloads import fetch_model
from captioning.evaluation import caption_examples, encode_images
from captioning.files import check_elsewhere, check_folder, remove_unfinished, replace_folder
from captioning.report import comparison, document, latex, provenance, results, sections, sentences, tables, yardsticks
from captioning.runtime import Machine, is_first, join_ranks, pick_device, pick_workers
from captioning.scores.grounding import build_grounders, naming_share
from captioning.scores.recipes import java_scores, tokenizer_recipe
from captioning.scores.scored import score
from captioning.search import options as search_options
from captioning.search.options import SETTINGS
from captioning.untrusted import write_table
from data_loader import EvalTransform
from model import image_vector
from vocab import SPECIALS, count_words, length_warning

CONFIG = {
    # what
    "model_path": "checkpoints/mobile.safetensors",  # .safetensors (a,b = ensemble) | .onnx | https://... | hf://owner/name
    "compare": [""],  # two to ten models to compare instead of reporting on one; "" = none
    "primary": "cider_d",  # score that decides a comparison: cider_d | bleu4 | rouge_l | accuracy | f1 | ...
    "data_dir": "data/pictograms",  # dataset folder or annotation file
    "images_dir": "",  # folder of its pictures; "" = beside the captions
    "allow_missing": False,  # go on without pictures that are not there, however many
    "allow_links": False,  # follow symbolic links that lead out of the dataset's folder
    "split": "val",  # train | val | test
    "output": "",  # folder; "" = reports/<run>, for a split other than val reports/<run>_<split>
    # decoding, see captioning/search/options.py
    **SETTINGS,
    # scores
    "java_metrics": False,  # also METEOR and SPICE, if java and pycocoevalcap are installed; takes minutes
    # beside the captions
    "probe_images": 50,  # train images per class for a plain classifier on the encoder's features; 0 = no classifier
    "neighbor_images": 2000,  # train images whose nearest one's caption is a baseline; 0 = no such baseline
    "imagenet_weights": "",  # torchvision state_dict of mobilenet_v2, to add ImageNet's classifier; "" = leave it out
    "audit": True,  # look for copies of images in all splits
    # speed
    "batch_size": 64,  # images per batch
    "num_workers": 2,  # threads or processes that read images
    "device": "",  # cuda | mps | cpu; "" = the first of these that is available
    "rank_minutes": 30.0,  # longest wait of a process that torchrun started for the others
}

# Of the settings that are no numbers.
TYPES = dict.fromkeys(
    ("model_path", "primary", "data_dir", "images_dir", "split", "output", "imagenet_weights", "device"), str
)
TYPES |= dict.fromkeys(("allow_missing", "allow_links", "java_metrics", "audit"), bool)
TYPES |= {"compare": list}


class Captioned(NamedTuple):
    """What a model says about a split, its files as provenance.describe_models tells, and the captioning's seconds."""

    subject: tables.Subject
    captioner: Captioner
    predictions: list
    models: list
    seconds: float


class Report(NamedTuple):
    """What a report shows: DataFrames, sentences and document.Gallery by name, and where it comes from.

    history: the rows of the training's epochs; [] = none is known
    """

    tables: dict
    texts: dict
    galleries: dict
    provenance: dict
    history: list


def report_folder(output, run, split):
    """Return the folder of the report. Raises ValueError if no report can be written there."""
    folder = Path(output or Path("reports", run if split == "val" else f"{run}_{split}"))
    check_elsewhere(folder)
    check_folder(folder)
    check_folder(folder.parent)  # where the new report is made
    remove_unfinished(folder.parent)
    return folder


# ---- caption, score --------------------------------------------------------------------------------------


def caption_split(model_path, dataset, config):
    """Caption one split of a Dataset with one model."""
    run, captioner = model_name(model_path), Captioner.load(model_path, device=config["device"])
    began = time.monotonic()
    options = captioner.search_options(**{name: config[name] for name in SETTINGS})
    predictions = caption_examples(
        captioner,
        dataset.splits[config["split"]],
        options=options,
        batch_size=config["batch_size"],
        num_workers=config["num_workers"],
    )
    tokenizer = tokenizer_recipe(captioner.vocabulary.tokenizer)
    words = sayable_words(captioner.vocabulary, dataset)
    subject = tables.Subject(run, dataset, config["split"], options, words, captioner.model.classes, tokenizer)
    seconds = time.monotonic() - began
    files = [fetch_model(part) for part in split_sources(model_path)]
    members = getattr(captioner.model, "models", [captioner.model])
    models = provenance.describe_models(model_path, files, members, options)
    return Captioned(subject, captioner, predictions, models, seconds)


def sayable_words(vocabulary, dataset):
    """Return the set of words that a model can say; where it has pieces, those of the Dataset's words that it can."""
    if not vocabulary.pieces:
        return frozenset(vocabulary.itos[len(SPECIALS) :])
    captions = (caption for example in dataset.examples for caption in example.captions)
    return frozenset(word for word in count_words(captions, vocabulary.unit)[0] if word in vocabulary)


def score_captions(captioned, tokens):
    """Return (the Scored of a model's captions, the Grounder of its classes; None = no captioned image has a class)."""
    dataset = captioned.subject.dataset
    # A caption may name any class of the data or of the model, not only those of the split.
    grounders = build_grounders(dataset.classes, captioned.subject.classes, dataset.aliases)
    if not any(prediction.example.label for prediction in captioned.predictions):
        grounders = None, None
    return score(captioned.predictions, *grounders, tokens), grounders[0]


# ---- tell ------------------------------------------------------------------------------------------------


def tell(captioned, scored, grounder, tokens, config):
    """Return the Report on one model's captions."""
    began, subject, dataset = time.monotonic(), captioned.subject, captioned.subject.dataset
    train = dataset.splits.get("train", [])
    java, skipped = java_scores(scored.hypotheses, scored.references) if config["java_metrics"] else ({}, {})
    baselines = ask_baselines(captioned, scored, grounder, tokens, config)
    baseline_seconds = time.monotonic() - began
    built = tables.build_tables(
        scored,
        subject,
        trained={tuple(tokens[caption]) for example in train for caption in example.captions},
        probed=baselines.probed,
        yardsticks=baselines.rows,
        java=java,
    )
    if baselines.memory is not None:
        built["memory"] = baselines.memory
    about_data, scored_at = None, time.monotonic()
    if config["audit"]:
        naming = partial(naming_share, grounder=build_grounders(dataset.classes, [], dataset.aliases)[0])
        workers = max(1, config["num_workers"])
        found = audit.audit_examples(dataset.examples, num_workers=workers, tokens=tokens, naming_share=naming)
        for column in ("image", "copy_of"):
            found.copies[column] = [tables.relative_path(path, dataset.root) for path in found.copies[column]]
        built |= {"audit": found.table, "copies": found.copies}
        lengths = Counter(len(reference) for group in scored.references for reference in group)
        long = length_warning(lengths, subject.options.max_len, subject.split)
        about_data = [*audit.warnings(found, subject.split), *([f"{long}."] if long else [])]
    audited_at = time.monotonic()
    texts = sentences.build_texts(
        built,
        subject,
        scored,
        skipped=skipped,
        about_yardsticks=baselines.lines,
        about_memory=baselines.about_memory,
        about_data=about_data,
    )
    galleries = sections.build_galleries(built, [example.image for example in scored.examples])
    scores = time.monotonic() - audited_at + scored_at - began - baseline_seconds
    seconds = {"captioning": captioned.seconds, "baselines": baseline_seconds}
    seconds |= {"audit": audited_at - scored_at, "scores": scores}
    device = pick_device(config["device"])
    came_from = provenance.build_provenance(subject, captioned.models, device, seconds)
    first, *_ = getattr(captioned.captioner.model, "models", [captioned.captioner.model])
    return Report(built, texts, galleries, came_from, provenance.training_history(first.origin))


class Baselines(NamedTuple):
    """What the captions are measured against.

    probed: the class that a plain classifier on the encoder's features names for each image; None = there is none
    rows:   of tables.yardstick_table; lines: what to say about them
    memory: yardsticks.memory_table, None = there is none; about_memory: how it was made, or why not
    """

    probed: list | None
    rows: list
    lines: list
    memory: pd.DataFrame | None
    about_memory: str


def ask_baselines(captioned, scored, grounder, tokens, config):
    """Return the Baselines of a model's captions; those about classes only where images have some."""
    device = pick_device(config["device"])
    num_workers = pick_workers(config["num_workers"], device)
    machine = Machine(device, num_workers=num_workers, batch_size=config["batch_size"])
    train, model = captioned.subject.dataset.splits.get("train", []), captioned.captioner.model
    if captioned.subject.split == "train":
        reason = "it would be asked about the images that it learned from"
    elif not isinstance(model, TorchModel):
        reason = "it needs one .safetensors model, whose encoder gives it features"
    else:
        reason = "" if train else "the data has no train split"
    encode = None
    if not reason:
        backbone, transform = model.network.encoder.backbone, EvalTransform(**model.transform)
        encode = yardsticks.Features(partial(encode_pooled, backbone, transform, machine))
    learned = yardsticks.draw_per_class(train, config["probe_images"])
    memory, about_memory = recall_captions(encode, reason, train, learned, scored, (grounder, tokens), config)
    if not scored.has_classes:
        return Baselines(None, [], [], memory, about_memory)
    probed, line = learn_classes(encode, reason, learned, scored.examples, config["probe_images"])
    rows = yardsticks.yardstick_rows(scored, probed, [example.label for example in train])
    if config["imagenet_weights"]:
        network = yardsticks.load_imagenet(config["imagenet_weights"]).to(device)
        encode = partial(encode_pooled, network, EvalTransform(yardsticks.IMAGENET_SIZE), machine)
        more, lines = yardsticks.imagenet_rows(encode, grounder, scored.examples)
    else:
        more, lines = [], ["ImageNet's own classifier was left out: imagenet_weights is empty."]
    return Baselines(probed, [*rows, *more], [line, *lines], memory, about_memory)


def learn_classes(encode, reason, learned, examples, num_images):
    """Ask a plain classifier on the encoder's features: (its class of each captioned image or None, a sentence).

    encode:  yardsticks.Features; None = there are none, because of `reason`
    learned: the examples that it learns from, at most `num_images` of each class
    """
    if not reason and not learned:
        reason = "no images with a class in train" if num_images else "probe_images is 0"
    if reason:
        return None, f"The plain classifier was left out: {reason}."
    probed = yardsticks.probe_classes(encode, learned, examples)
    number = counted(len(learned), "image")
    return probed, f"The plain classifier learned from {number} of train, at most {num_images} of each class."


def recall_captions(encode, reason, train, learned, scored, reading, config):
    """Caption the images by the most similar train images: (yardsticks.memory_table or None, a sentence).

    encode, reason, learned: as in learn_classes; reading: the Grounder and the Tokens of `scored`
    """
    if not reason and not config["neighbor_images"]:
        reason = "neighbor_images is 0"
    if reason:
        return None, f"The captions of the most similar train images were left out: {reason}."
    neighbors = yardsticks.draw_neighbors(train, learned, config["neighbor_images"])
    grounder, tokens = reading
    nearest = score(yardsticks.nearest_captions(encode, neighbors, scored.examples, tokens), grounder, None, tokens)
    line = (
        f"As a baseline each image gets a caption of the most similar of {counted(len(neighbors), 'train image')} by "
        "the encoder's features."
    )
    return yardsticks.memory_table(scored, nearest), line


def encode_pooled(network, transform, machine, paths, bar):
    """Return ((R,) positions of the readable images, (R, D) outputs of `network`, pooled over positions)."""
    kept, features = encode_images(network, paths, transform, machine, bar=bar)
    return kept, image_vector(features)


# ---- write -----------------------------------------------------------------------------------------------


REPORT_FILES = sections.FILES | comparison.COMPARISON_FILES  # either kind takes the place of the other


def write_report(folder, title, report, scored):
    """Write the report's files; those that are there are replaced when all the new ones are complete."""
    with replace_folder(folder, REPORT_FILES) as new:
        write_tables(new, report.tables)
        began = time.monotonic()
        draw_figures(new, title, report, scored)
        seconds = report.provenance["seconds"] | {"figures": round(time.monotonic() - began, 1)}
        report = report._replace(provenance=report.provenance | {"seconds": seconds})
        chosen = sections.chosen_rows(report.tables["images"])
        text = results.results_text(title, report.provenance, report.tables, report.texts, chosen)
        (new / "report.json").write_text(text, encoding="utf-8")
        (new / "tables.tex").write_text(latex.latex_text(title, report.tables), encoding="utf-8")
        names = {path.name for path in new.iterdir()} | {"report.md", "report.html"}
        parts = sections.build_sections(report.tables, report.texts, report.galleries, report.provenance)
        write_document(new, title, [*parts, sections.file_section(names)])


def write_tables(folder, built):
    """Write the tables that the report's files name as CSV."""
    for name, table in built.items():
        if name == "confusion":
            write_table(folder / "confusion.csv", table, index_label="class")
        elif f"{name}.csv" in sections.FILES:
            write_table(folder / f"{name}.csv", table, index=False, float_format="%.6f")


def draw_figures(folder, title, report, scored):
    """Draw the figures of the report into a folder."""
    built = report.tables
    plots.reference_figure(built["references"], folder / "references.png", title=title)
    plots.calibration_figure(built["calibration"], folder / "calibration.png", title=title)
    theirs = [len(tokens) for group in scored.references for tokens in group]
    lengths = {"the model's": [len(tokens) for tokens in scored.hypotheses], "the references'": theirs}
    plots.length_figure(lengths, folder / "lengths.png", title=title, unit=scored.unit)
    if report.history:
        best = report.provenance["models"][0]["best"].get("epoch")
        best = best if provenance.is_number(best) else 0
        plots.training_figure(report.history, folder / "training.png", title=f"Training: {title}", best=best)
    for gallery in report.galleries.values():
        pictures = [load_image(path, 2 * document.THUMBNAIL) for path in gallery.images]
        plots.caption_grid(pictures, gallery.lines, folder / gallery.file, columns=5, title=f"{gallery.text}: {title}")
    if scored.has_classes:
        plots.class_figure(built["classes"], folder / "classes.png", title=title)
        plots.confusion_figure(built["confusion"], folder / "confusion.png", title=title)
        groups = dict(zip(built["top_bottom"]["class"], built["top_bottom"]["group"], strict=True))
        groups = [groups.get(name, "") for name in built["classes"]["class"]]
        plots.class_scatter(built["classes"].assign(group=groups), folder / "scatter.png", title=title)
        rows = built["yardsticks"].rename(columns={"classifier": "name", "accuracy": "value"})
        plots.interval_figure(rows, folder / "yardsticks.png", title=title, xlabel="accuracy, 95 % intervals")


def write_comparison(folder, compared, came_from):
    """Write the files of a comparison.Comparison, as write_report does those of a report."""
    with replace_folder(folder, REPORT_FILES) as new:
        built = {"comparison": compared.scores, "pairs": compared.pairs}
        for name, table in (built | {"images": compared.images}).items():
            write_table(new / f"{name}.csv", table, index=False, float_format="%.6f")
        text = results.results_text(compared.title, came_from, built, {"verdict": compared.lines}, {})
        (new / "report.json").write_text(text, encoding="utf-8")
        label = tables.METRICS[compared.primary]
        rows = compared.pairs[compared.pairs["metric"] == label]
        rows = rows.assign(name=rows["first"] + " − " + rows["second"], value=rows["difference"])
        plots.interval_figure(rows, new / "comparison.png", title=compared.title, xlabel=f"{label}, 95 % intervals")
        write_document(new, compared.title, comparison.comparison_sections(compared, came_from))


def write_document(folder, title, parts):
    """Write sections as report.md and report.html into a folder that has their figures."""
    (folder / "report.md").write_text(document.markdown(title, parts), encoding="utf-8")
    (folder / "report.html").write_text(document.html(title, parts, folder), encoding="utf-8")


def print_summary(summary):
    """Print a line for each metric."""
    for row in summary.itertuples(index=False):
        interval = "" if np.isnan(row.low) else f"{row.low:.4f} to {row.high:.4f}"
        print(f"{row.metric:<21} {row.value:.4f}   {interval:<17}  {row.recipe}")


# ---- the script ------------------------------------------------------------------------------------------


def report_on(captioned, folder, config):
    """Score one model's captions, tell what the scores say, and write it."""
    tokens = Tokens(captioned.captioner.vocabulary.unit)
    scored, grounder = score_captions(captioned, tokens)
    report = tell(captioned, scored, grounder, tokens, config)
    write_report(folder, captioned.subject.title, report, scored)
    print_summary(report.tables["summary"])
    for warning in report.texts["warnings"]:
        print(f"warning: {warning}")
    for note in [*report.texts["bleu"], *report.texts["diagnoses"], *report.texts["notes"]]:
        print(f"note: {note}")
    print(f"wrote {folder / 'report.html'}, report.md and the tables and figures that they name")


def compare(captioned, folder, config):
    """Score several models' captions of the same images, and write how they differ."""
    began = time.monotonic()
    # Scores compare where they count the same; characters can be counted in any captions.
    tokenizers = [one.captioner.vocabulary.tokenizer for one in captioned]
    unit = "characters" if any(one["unit"] == "characters" for one in tokenizers) else "words"
    names = [tokenizer_recipe(tokenizer, unit) for tokenizer in tokenizers]
    subjects = [replace(one.subject, tokenizer=name) for one, name in zip(captioned, names, strict=True)]
    tokens = Tokens(unit)
    scored = [score_captions(one, tokens)[0] for one in captioned]
    compared = comparison.compare_models(scored, subjects, config["primary"])
    models = [model for one in captioned for model in one.models]
    seconds = {"captioning": sum(one.seconds for one in captioned), "comparison": time.monotonic() - began}
    device = pick_device(config["device"])
    write_comparison(folder, compared, provenance.build_provenance(captioned[0].subject, models, device, seconds))
    for line in compared.lines:
        print(line)
    print(f"wrote {folder / 'report.html'}, report.md and the tables and figures that they name")


def comparison_name(names):
    """Return the folder's name of a comparison: a_vs_b, of more than three models a_vs_4_others."""
    return "_vs_".join(names) if len(names) <= 3 else f"{names[0]}_vs_{len(names) - 1}_others"


def main(config):
    """Report on one model, or compare several."""
    config = cli.settings_of(config, "report")
    check_split(config["split"])
    # What is impossible is refused before anything is read.
    search_options.search_options({}, **{name: config[name] for name in SETTINGS})
    compared = [path for path in config["compare"] if path]
    fewest, most = comparison.FEWEST_MODELS, comparison.MOST_MODELS
    if compared and not fewest <= len(compared) <= most:
        raise ValueError(f"compare: got {counted(len(compared), 'model')}, allowed are {fewest} to {most}")
    if compared and config["java_metrics"]:
        raise ValueError("java_metrics: got True, but a comparison has no METEOR and SPICE; leave it out")
    if config["primary"] not in tables.METRICS:
        raise ValueError(f"primary: got {config['primary']!r}, allowed are {', '.join(tables.METRICS)}")
    if config["imagenet_weights"]:
        yardsticks.load_imagenet(config["imagenet_weights"])  # a wrong file is refused before an hour of captioning
    paths = compared or [config["model_path"]]
    folder = report_folder(config["output"], comparison_name([*map(model_name, paths)]), config["split"])
    with join_ranks(config["rank_minutes"]):
        dataset = load_dataset(config["data_dir"], config["split"], **picture_settings(config))
        captioned = [caption_split(path, dataset, config) for path in paths]
        if not is_first():
            return  # the first process scores the captions of all, once
        if compared:
            compare(captioned, folder, config)
        else:
            report_on(captioned[0], folder, config)
            flags = {"model_path": config["model_path"], **data_flags(config)}
            if "test" not in dataset.splits:
                flags["split"] = config["split"]
            print(f"next: {cli.command('test_inference.py', flags)}")


if __name__ == "__main__":
    limits = search_options.LIMITS | {"batch_size": (1, 65536), "num_workers": (0, 256), "probe_images": (0, 100_000)}
    limits |= {"neighbor_images": (0, 10_000_000), "rank_minutes": (0.01, 10_000)}
    cli.run(main, {"report": limits | TYPES}, ranks=True, report=CONFIG)
