"""The scores of a set of captions, and the recipe of each: all that its value depends on."""

import importlib.util
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

from captioning.cli import one_line
from captioning.scores import metrics

JAVA_SCORERS = {  # metric -> its class in pycocoevalcap, and the files beside it that java runs
    "meteor": ("Meteor", ("meteor-1.5.jar",)),
    "spice": (
        "Spice",
        ("spice-1.0.jar", "lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar"),
    ),
}


def caption_scores(hypotheses, references):
    """Score token lists against lists of reference token lists: BLEU-1..4, mean sentence BLEU-4, ROUGE-L, CIDEr-D."""
    scores = {f"bleu{n}": value for n, value in enumerate(metrics.corpus_bleu(hypotheses, references), start=1)}
    scores["sentence_bleu4"] = float(metrics.sentence_bleu(hypotheses, references).mean())
    scores["rouge_l"] = float(metrics.rouge_l(hypotheses, references)[0])
    scores["cider_d"] = float(metrics.cider_d(hypotheses, references)[0])
    return scores


def java_scores(hypotheses, references):
    """Score token lists with METEOR and SPICE, which are Java programs that pycocoevalcap starts.

    returns: ({name in JAVA_SCORERS: value in [0, 1]} of those that ran, {name: why} of those that did not)

    Downloads nothing: SPICE is skipped without Stanford's models, which pycocoevalcap would fetch unasked.
    Source: Denkowski and Lavie 2014; Anderson et al. 2016 (arXiv:1607.08822).
    """
    texts = {i: [" ".join(tokens) for tokens in group] for i, group in enumerate(references)}
    captions = {i: [" ".join(tokens)] for i, tokens in enumerate(hypotheses)}
    scores, skipped = {}, {}
    for name, (scorer_name, _) in JAVA_SCORERS.items():
        if reason := missing_for(name):
            skipped[name] = reason
            continue
        scorer = getattr(import_module(f"pycocoevalcap.{name}.{name}"), scorer_name)()
        try:
            scores[name] = float(scorer.compute_score(texts, captions)[0])
        # java ended early, or wrote no number: the other scores of a long evaluation are worth keeping.
        except subprocess.CalledProcessError as error:
            skipped[name] = f"its java ended with exit code {error.returncode}"
        except (OSError, ValueError) as error:
            skipped[name] = f"its java gave no score ({one_line(error)})"
        if name == "meteor":
            if name in skipped:  # it keeps its lock when it fails, and would wait for it forever when it is deleted
                scorer.lock.release()
            scorer.meteor_p.kill()
            for pipe in (scorer.meteor_p.stdout, scorer.meteor_p.stderr):  # which it leaves open
                pipe.close()
    return scores, skipped


def missing_for(name):
    """Return what a metric of JAVA_SCORERS lacks on this machine; "" = nothing."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if not spec:
        return "pycocoevalcap is not installed"
    # A Mac without Java has a `java` that only offers to install one.
    if not shutil.which("java") or subprocess.run(["java", "-version"], capture_output=True).returncode:
        return "there is no java that runs"
    folder = Path(next(iter(spec.submodule_search_locations)), name)
    absent = [file for file in JAVA_SCORERS[name][1] if not (folder / file).is_file()]
    return f"pycocoevalcap lacks {', '.join(absent)}, and nothing is downloaded unasked" if absent else ""


RECIPES = {
    **{f"bleu{n}": f"bleu{n}|corpus|{{refs}}|{{tok}}|smooth:none|{{rest}}" for n in range(1, 5)},
    "sentence_bleu4": "bleu4|mean-of-sentences|{refs}|{tok}|smooth:nltk-method4|{rest}",
    "rouge_l": "rouge_l|mean-of-images|{refs}|{tok}|beta:1.2|{rest}",
    "cider_d": "cider_d|df:this-split|{refs}|{tok}|sigma:6|{rest}",
    "meteor": "meteor|corpus|{refs}|{tok}|version:1.5-en-norm|{rest}",
    "spice": "spice|mean-of-images|{refs}|{tok}|version:1.0|{rest}",
    "accuracy": "accuracy|class-named-in-caption|{tok}|none:wrong|{rest}",
    **{
        name: f"{name}|class-named-in-caption|{{tok}}|macro|none:wrong|{{rest}}"
        for name in ("precision", "recall", "f1")
    },
    **{
        f"weighted_{name}": f"{name}|class-named-in-caption|{{tok}}|weighted|none:wrong|{{rest}}"
        for name in ("precision", "recall", "f1")
    },
}


TOKENIZERS = {"words": "nltk-coco", "characters": "characters"}  # unit -> as recipes name it


def tokenizer_recipe(tokenizer, unit=""):
    """Return how a recipe names a tokenizer: what is counted, and +pieces if the model says pieces of it.

    tokenizer: of captioning.data.tokenizer; unit: what is counted, "" = the tokenizer's own
    """
    return TOKENIZERS[unit or tokenizer["unit"]] + "+pieces" * (tokenizer["name"] == "pieces")


def recipe(metric, *, references, options, count, tokenizer=TOKENIZERS["words"]):
    """Return how a score was made, e.g. bleu4|corpus|refs:5|tok:nltk-coco|smooth:none|beam:5|consensus:0.6|n:210."""
    rest = f"{options.recipe()}|n:{count}"
    return RECIPES[metric].format(refs=f"refs:{references}", tok=f"tok:{tokenizer}", rest=rest)
