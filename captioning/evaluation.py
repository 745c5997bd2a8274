"""A model and examples in; captions, losses and scores out.

Captions are always decoded freely: the model reads its own words, never those of a reference.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from captioning.data.annotations import Example
from captioning.data.images import check_unreadable
from captioning.data.sequences import Paths
from captioning.familiarity import is_unlike
from captioning.progress import Progress
from captioning.runtime import LONGEST_WAIT, autocast, fit_workers, gather_list, random_numbers, share, start_workers
from captioning.search.beam import beam_search
from captioning.search.options import confidence

FEWEST_FOR_CIDER = 20  # images; with fewer, CIDEr's document frequencies say nothing


@dataclass(frozen=True)
class Prediction:
    """A generated caption, and its log-probability in nats.

    ended:       False = cut at max_len, so <end> was not said and is not in log_prob
    familiarity: of the image, as captioning.familiarity; None = the model does not know
    num_tokens:  without <end>; -1 = one for each word between spaces
    """

    example: Example
    caption: str
    log_prob: float
    ended: bool = True
    familiarity: float | None = None
    num_tokens: int = -1

    @property
    def unlike(self):
        """True if the image is unlike the model's training pictures."""
        return is_unlike(self.familiarity)

    @property
    def confidence(self):
        """As captioning.search.options.confidence."""
        num_tokens = len(self.caption.split()) if self.num_tokens == -1 else self.num_tokens
        return confidence(self.log_prob, num_tokens + self.ended)


class ImageDataset(Dataset):
    """(index, pixels (3, S, S) uint8 or error line) for image files.

    transform:  a data_loader.Transform
    random_key: whole numbers, such as (seed, view), that decide with an image's index what a random transform draws
    """

    def __init__(self, paths, transform, random_key=()):
        self.paths, self.transform, self.random_key = Paths(paths), transform, random_key

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            image = self.transform.load(self.paths[index])
        except ValueError as error:
            return index, str(error)
        with random_numbers(*self.random_key, index):
            return index, self.transform.pixels(image)


def collate_readable(items):
    """Return (index list, pixels (B, 3, S, S) uint8 or None, error lines)."""
    good = [(index, image) for index, image in items if torch.is_tensor(image)]
    failed = [line for _, line in items if not torch.is_tensor(line)]
    return [index for index, _ in good], default_collate([image for _, image in good]) if good else None, failed


@torch.inference_mode()
def encode_rows(network, images, rows, machine, bar="", kind=torch.float32):
    """Run `network` over some of the images of an ImageDataset.

    network: (B, 3, S, S) -> (B, ...): the encoder, or its backbone alone
    rows:    a range of positions; machine: runtime.Machine
    bar:     what the progress bar says; "" = no bar
    returns: [positions of the readable images], [their outputs (N, ...) on the CPU, of the type `kind`], [error lines];
             [] instead of the outputs where no image can be read
    """
    network.eval()
    num_workers = fit_workers(machine.num_workers, machine.batch_size, images.transform.image_size)
    loader = DataLoader(
        images,
        batch_size=machine.batch_size,
        sampler=rows,
        num_workers=num_workers,
        timeout=LONGEST_WAIT if num_workers else 0,
        collate_fn=collate_readable,
        generator=torch.Generator(),  # else the workers' seeds are drawn from torch's own
        pin_memory=machine.device.type == "cuda",
    )
    kept, failed = [], []

    def encode_batches():
        with Progress(total=len(rows), desc=bar, unit=" images", disable=not bar) as progress:
            for index, batch, lines in start_workers(loader):
                failed.extend(lines)
                if index:
                    batch = images.transform.normalize(batch.to(machine.device, non_blocking=True))
                    batch = batch.contiguous(memory_format=torch.channels_last)
                    with autocast(machine.device, machine.dtype):
                        yield network(batch)
                    kept.extend(index)
                progress.update(len(index) + len(lines))

    outputs = stack_batches(encode_batches(), len(rows), kind)
    return kept, outputs, failed


def stack_batches(batches, num_rows, kind=torch.float32):
    """Return [the tensors (B, ...) of an iterable, one after another, on the CPU in one tensor]; [] if there is none.

    num_rows: the most that they have together; kind: the type. What torch.cat does, without having all of it twice.
    """
    stacked, end = None, 0
    for batch in batches:
        if stacked is None:
            with torch.inference_mode(False):  # a classifier may be trained on it
                stacked = torch.empty(num_rows, *batch.shape[1:], dtype=kind)
        begin, end = end, end + len(batch)
        stacked[begin:end] = batch
    with torch.inference_mode(False):
        return [] if stacked is None else [stacked[:end]]


def encode_images(network, paths, transform, machine, *, bar=""):
    """Run `network` over image files; the arguments are those of `encode_rows`.

    returns: (N,) long positions of the readable images, (N, ...) float on the CPU

    Raises ValueError if more than a small share of the images cannot be read.
    """
    kept, outputs, failed = encode_rows(network, ImageDataset(paths, transform), range(len(paths)), machine, bar)
    check_unreadable(failed, len(paths), "images")
    return torch.tensor(kept), outputs[0]


def encode_together(network, images, rows, machine, bar="", kind=torch.float32):
    """As `encode_images`, of the `rows` of an ImageDataset; all ranks call it, each encodes its share, all get all.

    kind: the type of the outputs, which are None where no image can be read

    Raises ValueError if those that cannot be read are more than a small share of all images of the ImageDataset.

    A rank encodes whole batches of those that one rank would make, so the outputs are the same to the last bit.
    """
    own = rows[share(len(rows), machine.batch_size)]
    kept, outputs, failed = map(gather_list, encode_rows(network, images, own, machine, bar, kind))
    check_unreadable(failed, len(images), "images")
    kept = torch.tensor(kept, dtype=torch.long)
    return kept, None if not outputs else outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@torch.inference_mode()
def decode_embeddings(model, embeddings, vocabulary, options, *, batch_size=128):
    """Caption image embeddings (N, E) or (N, P, E): the best caption of each, as SearchOptions say.

    Of several ranks all call it; each captions its share, in the batches that one rank would make, and all get all.

    returns: N pairs (text, log-probability in nats, <end> included)
    """
    options = replace(options, pieces=vocabulary.pieces)
    model.eval()
    device, step = next(model.parameters()).device, model.decoder.make_step()
    captions = []
    for chunk in embeddings[share(len(embeddings), batch_size)].split(batch_size):
        if not len(chunk):  # a rank without a share
            continue
        found = beam_search(
            step,
            model.decoder.start(chunk.to(device)),
            options,
            start=vocabulary.start_id,
            end=vocabulary.end_id,
            banned=vocabulary.banned,
        )
        captions += [(vocabulary.decode(best.ids), best.log_prob) for best, *_ in found]
    return gather_list(captions)


@torch.inference_mode()
def attention_maps(model, embeddings, captions, vocabulary):
    """Return where an attention decoder looked for each word: for each caption an array (words, h, w), square.

    embeddings: (N, P, E); captions: N texts that the model said
    """
    device, maps = next(model.parameters()).device, []
    for embedding, caption in zip(embeddings, captions, strict=True):
        ids = vocabulary.encode(caption)[1:-1]
        tokens = torch.tensor([[vocabulary.start_id, *ids]], device=device)
        _, attention = model.decoder.attend(embedding[None].to(device), tokens)
        side = math.isqrt(attention.shape[2])
        seen = attention[0, : len(ids)].unflatten(1, (side, side)).float().cpu().numpy()
        maps.append(vocabulary.by_word(ids, seen))
    return maps


@torch.inference_mode()
def teacher_forced(model, embeddings, tokens, pad_id, batch_size=128):
    """Score reference captions under teacher forcing.

    embeddings: (N, E) or (N, P, E); tokens: N lists of id tensors (<start> ... <end>), all the captions of each image
    returns:    {"loss": mean cross-entropy in nats per token, <end> included; "token_accuracy": 0..1}

    Of several ranks all call it; each scores its share, and all get the figures of one rank.
    """
    model.eval()
    device = next(model.parameters()).device
    pairs = [(row, ids) for row, captions in enumerate(tokens) for ids in captions]
    batches = []  # (loss, correct, count) of each
    pairs = pairs[share(len(pairs), batch_size)]
    for begin in range(0, len(pairs), batch_size):
        rows, ids = zip(*pairs[begin : begin + batch_size], strict=True)
        ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad_id).to(device)
        logits = model.decoder(embeddings[list(rows)].to(device), ids[:, :-1]).float()
        targets = ids[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=pad_id, reduction="sum")
        mask = targets != pad_id
        correct = ((logits.argmax(dim=2) == targets) & mask).sum()
        batches.append((loss.item(), correct.item(), mask.sum().item()))
    loss, correct, count = map(sum, zip(*gather_list(batches), strict=True))
    return {"loss": loss / count, "token_accuracy": correct / count}


def caption_examples(captioner, examples, *, options, batch_size=64, num_workers=2, progress=True):
    """Caption the images of examples as SearchOptions say: one Prediction per readable image, in order.

    Of several ranks each captions its share, in the batches that one rank would make; all get the Predictions of all.

    captioner: caption.Captioner, or what has its method `stream`

    Raises ValueError if more than a small share of the images cannot be read.
    """
    total, examples = len(examples), examples[share(len(examples), batch_size)]
    images = [example.image for example in examples]
    results = captioner.stream(images, options, batch_size=batch_size, num_workers=max(1, num_workers))
    predictions, failed = [], []
    bar = Progress(results, total=len(images), desc="captioning", unit=" images", disable=not progress)
    for example, (_, caption) in zip(examples, bar, strict=True):
        if isinstance(caption, ValueError):
            failed.append(str(caption))
        else:
            found = (caption.text, caption.log_prob, caption.ended, caption.familiarity, len(caption.tokens))
            predictions.append(Prediction(example, *found))
    check_unreadable(gather_list(failed), total, "images")
    return gather_list(predictions)
