"""Export a checkpoint to ONNX, quantise it to int8, and show what each form costs and gives.

    python export.py                                                   # -> exports/pictograms{,_int8}.onnx, table
    python export.py --model_path checkpoints/ucm_0.safetensors --data_dir <ucm_captions>
    python export.py --num_images 0                                    # the files alone, no table
    python export.py --executorch true --num_images 100                # an ExecuTorch program too, for phones
    python export.py --hub owner/name --report reports/pictograms_test # a model folder, uploaded when logged in

Reads   the checkpoint; train images of `data_dir` to calibrate the int8 encoder, `split` to score every form
Writes  exports/<run>.onnx and exports/<run>_int8.onnx (opset 18, see captioning/deploy/onnx_model.py),
        exports/<run>.csv and exports/<run>.md with the table; with --executorch true
        exports/<run>.pte (see captioning/deploy/executorch_model.py); with --hub
        exports/<run>_hub/, the folder of a Hugging Face repository

int8: the encoder statically (weights per channel, activations calibrated), the decoder dynamically. Latency is the
median of one image, encoded and decoded greedily, after warm-up, each form in the same run.
Needs requirements-deploy.txt, and with --executorch true requirements-executorch.txt.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements-deploy.txt", "onnx", "onnxruntime", "onnxscript")

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from caption import Captioner
from captioning import cli, process
from captioning.complexity import median_seconds
from captioning.data.annotations import load_dataset, picture_settings
from captioning.data.images import load_image
from captioning.data.splits import check_split
from captioning.data.tokenizer import Tokens
from captioning.deploy import hub
from captioning.deploy.downloads import fetch_model, loading
from captioning.deploy.onnx_export import OPSET, CalibrationImages, export_onnx
from captioning.evaluation import caption_examples
from captioning.files import check_folder, file_digest, remove_unfinished, replace_file
from captioning.markup import markdown_table
from captioning.metadata import dump_metadata
from captioning.scores.bootstrap import all_scores
from captioning.scores.grounding import build_grounders
from captioning.scores.scored import score
from captioning.search import options as search_options
from captioning.search.options import SETTINGS, SearchOptions
from captioning.untrusted import write_table
from model import load_captioner

CONFIG = {
    # what
    "model_path": "checkpoints/pictograms.safetensors",  # .safetensors | https://... | hf://owner/name
    "output_dir": "exports",  # folder of everything that is written
    "data_dir": "data/pictograms",  # dataset folder or annotation file
    "images_dir": "",  # folder of its pictures; "" = beside the captions
    "allow_missing": False,  # go on without pictures that are not there, however many
    "allow_links": False,  # follow symbolic links that lead out of the dataset's folder
    # int8
    "calibration_images": 128,  # random train images that calibrate the encoder's activations
    "seed": 0,  # of the random choice of images
    # table
    "split": "test",  # train | val | test
    "num_images": 1_000_000,  # most images of the split to caption; 0 = no table
    "num_runs": 30,  # images whose median latency is reported
    # decoding, see captioning/search/options.py
    **SETTINGS,
    # ExecuTorch
    "executorch": False,  # write a program for phones as well, in float32
    # Hugging Face
    "hub": "",  # owner/name of the repository; "" = write no folder for it
    "report": "",  # folder of analysis_report.py with the scores for the model card
}

LIMITS = search_options.LIMITS | {
    "calibration_images": (1, 100_000),
    "num_images": (0, 10_000_000),
    "num_runs": (1, 10_000),
    "seed": (0, 2**32 - 1),
}
# Of the settings that are no numbers.
TYPES = dict.fromkeys(("model_path", "output_dir", "data_dir", "images_dir", "split", "hub", "report"), str)
TYPES |= dict.fromkeys(("allow_missing", "allow_links", "executorch"), bool)

GREEDY = SearchOptions(beam_size=1)
FORMS = ("PyTorch", "ONNX float32", "ONNX int8")
EXECUTORCH = "ExecuTorch float32"


def draw(examples, count, seed):
    """Return `count` of the examples at random, in their order; all where there are not as many."""
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(examples), min(count, len(examples)), replace=False)
    return [examples[position] for position in sorted(chosen)]


def load_form(path, num_threads=0):
    """Return the Captioner of a written form, on the CPU; num_threads: of one call outside PyTorch, 0 = all cores."""
    if path.suffix == ".pte":
        from captioning.deploy.executorch_model import ExecutorchModel  # needs a package that the other forms do not

        return Captioner(ExecutorchModel(path, num_threads))
    return Captioner.load(path, device="cpu", num_threads=num_threads)


def latency_ms(captioner, images, num_runs):
    """Return the median time in ms from a decoded picture to its greedy caption, one at a time, after warm-up."""
    pictures = itertools.cycle([captioner.read(image) for image in images])
    return 1000 * median_seconds(lambda: captioner.caption_batch([("", next(pictures))], GREEDY), num_runs)


def latencies(paths, images, num_runs):
    """Return {form: {number of threads: ms}} on the CPU; paths: form -> file."""
    found = {form: {} for form in paths}
    before = torch.get_num_threads()
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        for form, path in paths.items():
            captioner = load_form(path, num_threads)
            found[form][num_threads] = latency_ms(captioner, images, num_runs)
    torch.set_num_threads(before)
    return found


def remove_others(folder, stem):
    """Remove what an earlier export of this name has left beside the files that are new: its table and its program."""
    for other in (folder / f"{stem}{suffix}" for suffix in (".csv", ".md", ".pte")):
        if other.is_file():
            other.unlink()
            print(f"removed {other}, which belongs to an earlier export")


def score_form(predictions, grounder, unit):
    """Return {"BLEU-4", "CIDEr-D", "accuracy"} of Predictions; no accuracy without a grounder.

    unit: words | characters, which the scores count
    """
    counts = score(predictions, grounder, tokens=Tokens(unit)).counts
    scores = {name: float(value[0]) for name, value in all_scores(counts, np.ones((1, len(predictions)))).items()}
    found = {"BLEU-4": scores["bleu4"], "CIDEr-D": scores["cider_d"]}
    return found | ({"accuracy": scores["accuracy"]} if grounder else {})


def build_table(paths, examples, options, grounder, num_runs):
    """Return the DataFrame of what each form costs and gives; paths: form -> file, the baseline first."""
    images = [load_image(example.image) for example in examples[:16]]
    times = latencies(paths, images, num_runs)
    rows, said = [], {}
    for form, path in paths.items():
        captioner = load_form(path)
        beam, greedy = (caption_examples(captioner, examples, options=one) for one in (options, GREEDY))
        said[form] = [[p.caption for p in predictions] for predictions in (beam, greedy)]
        rows.append(
            {"form": form, "MB": path.stat().st_size / 1e6}
            | {f"ms, {count} thread{'s' * (count > 1)}": ms for count, ms in times[form].items()}
            | score_form(beam, grounder, captioner.vocabulary.unit)
            | {
                f"same {name} captions": np.mean(np.array(now) == np.array(first))
                for name, now, first in zip(("beam", "greedy"), said[form], said[FORMS[0]], strict=True)
            }
        )
    return pd.DataFrame(rows)


def to_markdown(table, caption):
    """Return a DataFrame as a Markdown table, numbers to four significant digits, below a caption."""
    lines = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in table.values]
    return f"{caption}\n\n{markdown_table(list(table.columns), lines)}\n"


def main(config):
    """Write the ONNX files, then the table, then the model folder."""
    config = cli.settings_of(config, "export")
    check_split(config["split"])
    settings = {name: config[name] for name in SETTINGS}
    search_options.search_options({}, **settings)  # what is impossible is refused before anything is read
    if config["executorch"]:
        process.require("requirements-executorch.txt", "executorch")
    if config["hub"]:
        hub.check_name(config["hub"])
        hub.read_scores(config["report"])
    folder = Path(config["output_dir"])
    check_folder(folder)
    remove_unfinished(folder)
    path = fetch_model(config["model_path"])
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a .safetensors checkpoint is exported")
    with loading(path):
        network, _, checkpoint = load_captioner(path)
    options = search_options.search_options(checkpoint.decoding, **settings)
    needed = ("train", config["split"]) if config["num_images"] or config["hub"] else ("train",)
    dataset = load_dataset(config["data_dir"], *needed, **picture_settings(config))
    train = draw(dataset.splits["train"], config["calibration_images"], config["seed"])
    calibration = CalibrationImages([example.image for example in train], checkpoint.transform)
    paths = {
        FORMS[0]: path,
        FORMS[1]: folder / f"{path.stem}.onnx",
        FORMS[2]: folder / f"{path.stem}_int8.onnx",
    }
    before = file_digest(paths[FORMS[1]])
    export_onnx(
        network,
        dump_metadata(vars(checkpoint)),
        checkpoint.transform["image_size"],
        paths[FORMS[1]],
        int8_path=paths[FORMS[2]],
        calibration=calibration,
    )
    print(f"wrote {paths[FORMS[1]]} and {paths[FORMS[2]]}, opset {OPSET}")
    if before != file_digest(paths[FORMS[1]]):
        remove_others(folder, path.stem)
    if config["executorch"]:
        from captioning.deploy.executorch_model import export_executorch

        paths[EXECUTORCH] = folder / f"{path.stem}.pte"
        size = checkpoint.transform["image_size"]
        export_executorch(network, dump_metadata(vars(checkpoint)), size, paths[EXECUTORCH])
        print(f"wrote {paths[EXECUTORCH]}")

    if config["num_images"]:
        grounder, _ = build_grounders(dataset.classes, checkpoint.classes, dataset.aliases)
        examples = draw(dataset.splits[config["split"]], config["num_images"], config["seed"])
        if not any(example.label for example in examples):
            grounder = None
        table = build_table(paths, examples, options, grounder, config["num_runs"])
        size = checkpoint.transform["image_size"]
        text = to_markdown(
            table,
            f"{path.stem}, {size} px, {len(examples)} images of the {config['split']} split, {options.text()}; "
            f"time of one image, encoded and decoded greedily",
        )
        with replace_file(folder / f"{path.stem}.csv") as temporary:
            write_table(temporary, table, index=False, float_format="%.6f")
        with replace_file(folder / f"{path.stem}.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(text)
    if config["hub"]:
        examples = draw(dataset.splits[config["split"]], hub.NUM_EXAMPLES, config["seed"])
        pictures = [example.image for example in examples]
        captions = Captioner.load(paths[FORMS[1]])(pictures)
        written = hub.write_folder(
            folder / f"{path.stem}_hub",
            config["hub"],
            [paths[form] for form in FORMS],
            checkpoint,
            scores=hub.read_scores(config["report"]),
            examples=[(picture, caption.text) for picture, caption in zip(pictures, captions, strict=True)],
        )
        print(f"wrote {written}; {hub.upload(written, config['hub'])}")
    print(f"next: {cli.command('caption.py photo.jpg', {'model_path': paths[FORMS[2]]})}")


if __name__ == "__main__":
    cli.run(main, {"export": LIMITS | TYPES}, export=CONFIG)
