"""Training learns: every stage makes a model with either decoder learn 8 images by heart."""

import itertools
from dataclasses import replace

import pytest
import torch

import train
from captioning.data.annotations import load_examples
from captioning.runtime import Machine
from captioning.scores.grounding import Grounder, caption_classifier
from captioning.search.options import SearchOptions
from captioning.training import validation
from captioning.training.optimisation import Tally, start_run
from captioning.training.stages import Stage
from captioning.training.validation import Validation
from data_loader import CaptionDataset, EvalTransform, TrainingData
from model import DECODERS, CNNtoRNN, load_encoder_weights
from train import build_loss, train_one_epoch
from vocab import build_vocabulary, count_words

SIZE = 64  # pixels, as the shipped encoder was trained at
MACHINE = Machine(torch.device("cpu"))
SETTINGS = train.CONFIG | {
    "label_smoothing": 0.0, "class_loss": 0.5, "class_emphasis": 1.0, "word_loss": 0.1, "max_len": 12,
    "self_critical_samples": 8, "class_reward": 1.0,
}  # fmt: skip
STAGES = {
    "decoder": Stage("decoder", epochs=60, lr=0.01, batch_size=4),
    "everything": Stage(
        "everything", epochs=50, lr=0.01, encoder_lr=1e-4, num_blocks=19, batch_size=4, reads_files=True
    ),
    "finetune": Stage("finetune", epochs=60, lr=0.01, encoder_lr=1e-4, num_blocks=2, batch_size=4),
    "self-critical": Stage("self-critical", epochs=100, lr=1e-3, batch_size=8),
}


class Pupil:
    """A small captioner on the shipped encoder, 8 images of 8 classes that it learns, and its score on them."""

    def __init__(self, data_dir, decoder):
        torch.manual_seed(0)
        examples = load_examples(data_dir, "train")
        examples = list({example.label: example for example in examples}.values())[:48:6]
        self.classes = [example.label for example in examples]
        self.grounder = Grounder(self.classes)
        self.examples = [
            replace(e, captions=[next(text for text in e.captions if self.grounder.name(text) == e.label)])
            for e in examples
        ]
        self.vocabulary = build_vocabulary(count_words(text for e in self.examples for text in e.captions)[0], 1)
        self.model = CNNtoRNN(
            len(self.vocabulary), 8, True, hidden_size=64, decoder=decoder, attention_size=32, input_dropout=0,
            dropout=0,
        )  # fmt: skip
        load_encoder_weights(self.model.encoder, "mobilenet_v2", train.model_script.CONFIG["encoder_weights"])
        decoding = SearchOptions(beam_size=1, max_len=SETTINGS["max_len"])
        self.validation = Validation(self.vocabulary, self.grounder, decoding)

    def learn(self, stage):
        """Train a stage: what each epoch logs, and the scores of the model after it."""
        transform = EvalTransform(SIZE)
        train_set = CaptionDataset(
            self.examples, self.vocabulary, transform, classes=self.classes, grounder=self.grounder, image_size=SIZE
        )
        cut = 0 if stage.reads_files else stage.num_blocks
        data = TrainingData(train_set, self.examples, [transform], MACHINE, cut=cut, seed=0)
        stage_data = data.open(stage, self.model)
        class_of = caption_classifier(self.grounder, self.vocabulary, self.classes)
        loss = build_loss(stage, stage_data, SETTINGS, self.vocabulary, class_of)
        run = start_run(self.model, stage, len(stage_data.batches), MACHINE)
        logged = []
        for epoch in range(stage.epochs):
            logged.append(train_one_epoch(run, stage, stage_data, loss, MACHINE, seed=epoch))
            run.tally = Tally()
        self.embeddings, _ = data.val_embeddings(stage_data, self.model.eval())
        return logged, self.validation(self.model, self.embeddings, self.examples)


@pytest.fixture(params=DECODERS)
def pupil(request, pictograms_dir, tmp_path, monkeypatch):
    folder = pictograms_dir.resolve()
    pupil = Pupil(folder, request.param)
    monkeypatch.chdir(tmp_path)  # for the cache of features
    return pupil


@pytest.mark.parametrize("stage", ["decoder", "everything", "finetune"])
def test_a_stage_learns_8_images_by_heart(pupil, stage):
    logged, scores = pupil.learn(STAGES[stage])
    losses = [epoch["train_loss"] for epoch in logged]
    assert max(losses[-5:]) < losses[0] / 4
    assert scores["class_accuracy"] == 1
    assert scores["token_accuracy"] == 1
    with torch.inference_mode():
        classes = pupil.model.class_logits(pupil.embeddings)
    assert classes.argmax(dim=1).tolist() == list(range(8))


def test_the_self_critical_stage_learns_what_is_rewarded(pupil):
    """It follows a decoder that has begun to learn, since the samples of a random one earn nothing."""
    epochs = 4 if pupil.model.decoder.has_attention else 20  # with attention the images are learned sooner
    _, before = pupil.learn(replace(STAGES["decoder"], epochs=epochs))
    logged, after = pupil.learn(STAGES["self-critical"])
    rewards = [epoch["reward"] for epoch in logged]
    assert sum(rewards[-10:]) > 1.1 * sum(rewards[:10])
    assert after["cider_d"] > before["cider_d"]
    assert after["class_accuracy"] == 1 > before["class_accuracy"]


def test_the_decoding_that_is_chosen_scores_best_of_all_that_are_tried(pupil):
    """Against every combination, scored one by one; and none is chosen where there are too few images for scores."""
    pupil.learn(replace(STAGES["decoder"], epochs=3))  # one that is unsure, so that its decoding matters
    arguments = pupil.model, pupil.embeddings, pupil.examples
    chosen = pupil.validation.choose_decoding(*arguments)
    scores = {}
    for penalty, consensus in itertools.product(validation.LENGTH_PENALTIES, validation.CONSENSUS):
        decoding = SearchOptions(max_len=SETTINGS["max_len"], length_penalty=penalty, consensus=consensus)
        scores[penalty, consensus] = replace(pupil.validation, decoding=decoding)(*arguments)["cider_d"]
    assert scores[chosen["length_penalty"], chosen["consensus"]] == max(scores.values())
    assert replace(pupil.validation, by_loss=True).choose_decoding(*arguments) == {}
    assert replace(pupil.validation, by_loss=True).metric == "val_loss"
