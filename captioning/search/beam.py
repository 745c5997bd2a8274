"""From log-probabilities to likely or random sequences, over token ids only: beam search (also in diverse groups) and
sampling, for one model or for several as one. A beam of one is greedy search.

A model is a function `step(tokens (N,), state) -> (log-probs (N, V), state)`; `state` is a tuple of tensors whose
first dimension is N, so that rows and beams can be picked by index. Rows that are done leave the batch, so `step`
sees fewer of them as the search goes on. A step waits for the device once: to learn how many rows are left.
"""

import math
from typing import NamedTuple

import torch

from captioning.search.consensus import most_agreed
from captioning.search.options import Hypothesis


class Samples(NamedTuple):
    """S captions drawn for each of B rows; T is the length of the longest."""

    tokens: torch.Tensor  # (B, S, T) long, the <end> that was drawn and everything after it is <end>
    log_probs: torch.Tensor  # (B, S, T) float, nats of each token, 0 after <end>
    lengths: torch.Tensor  # (B, S) long, tokens, <end> included


class Beams(NamedTuple):
    """The search of M groups of beams, G groups to a row: W live beams each, and the n best that have ended."""

    row: torch.Tensor  # (M,) long, place in the batch
    log_prob: torch.Tensor  # (M, W) of the live beams; -inf = dead
    sequences: torch.Tensor  # (M, W, T) long, filled up with <end>
    num_ended: torch.Tensor  # (M,) long
    best_score: torch.Tensor  # (M, n) normalised, best first; -inf = none
    best_log_prob: torch.Tensor  # (M, n)
    best_sequences: torch.Tensor  # (M, n, T) long

    def pick(self, index):
        """Return the groups at `index` (M',)."""
        return Beams(*(part.index_select(0, index) for part in self))


@torch.no_grad()
def beam_search(step, state, options, *, start, end, banned=()):
    """Find the likeliest sequences of each row; rows and beams advance together.

    step:    (tokens (N,), state) -> (log-probs (N, V), state); N is B at first, then up to B * K, then falls
    state:   tuple of tensors (B, ...), one row per image
    options: SearchOptions
    banned:  ids that are never chosen (<unk>, <pad>, <start>)
    returns: B lists of 1 to num_best Hypothesis, best score first

    beam_size=1 is exactly greedy. Ended sequences alone are returned; a row that never ends returns its best
    unfinished beam. With groups the best of each group come first, by score, then the seconds, and so on; what two
    groups found is returned once, and each group that never ends adds its best unfinished beam. A row to which the
    model leaves no sequence at all returns no words, at -inf. With options.consensus all that was found is ranked by
    how much it agrees, as captioning.search.consensus tells.

    Source: after Wu et al. 2016 (arXiv:1609.08144), with plain len**alpha; groups are Vijayakumar et al. 2016
    (arXiv:1610.02424) with Hamming diversity, which counts the tokens of live beams at this step and steers the choice
    of beams alone: scores stay the model's own.
    """
    if options.agrees():
        found = beam_search(step, state, options.all_beams(), start=start, end=end, banned=banned)
        return [most_agreed(hypotheses, options) for hypotheses in found]
    groups, size = options.groups, options.beam_size // options.groups
    batch_size, device = len(state[0]), state[0].device
    banned = torch.tensor(banned, dtype=torch.long, device=device)
    beams = start_beams(batch_size, groups, min(options.num_best, size), options.max_tokens, end, device)
    state = tuple(part.repeat_interleave(groups, dim=0) for part in state)
    tokens = torch.full((batch_size * groups,), start, device=device)
    left = []  # groups of the rows that are done

    for t in range(options.max_tokens):
        log_probs, state = step(tokens, state)
        total = log_probs + beams.log_prob.reshape(-1, 1)  # (M*W, V)
        forbid(total, beams.sequences.flatten(0, 1)[:, :t], options, end=end, banned=banned)
        beams, parent = extend(beams, total, t, options, end)

        # Scores only fall, so no live beam can end better than its score now over the full length.
        bound = beams.log_prob.amax(dim=1) / options.max_tokens**options.length_penalty
        done = (beams.num_ended >= size) | (beams.best_score[:, -1] >= bound)
        beams = beams._replace(log_prob=beams.log_prob.masked_fill(done[:, None], -torch.inf))
        going = ~done.view(-1, groups).all(dim=1)
        num_going = int(going.sum())  # the one wait for the device
        if num_going < len(going):
            order = going.sort(descending=True, stable=True).indices
            order = (order[:, None] * groups + torch.arange(groups, device=device)).flatten()  # (M,)
            stay, leave = order.tensor_split([num_going * groups])
            left.append(beams.pick(leave))
            beams, parent = beams.pick(stay), parent[stay]
        if not num_going:
            break
        tokens, parent = beams.sequences[:, :, t].flatten(), parent.flatten()  # (M*W,)
        state = tuple(part.index_select(0, parent) for part in state)

    return collect([*left, keep_unfinished(beams, options)], batch_size, options, end)


def start_beams(batch_size, groups, num_best, max_len, end, device):
    """Return Beams before the first step: one live beam a group, as equal beams would find the same K times."""
    rows = torch.arange(batch_size, device=device).repeat_interleave(groups)
    scores = torch.full((len(rows), num_best), -torch.inf, device=device)
    return Beams(
        row=rows,
        log_prob=torch.zeros(len(rows), 1, device=device),
        sequences=torch.full((len(rows), 1, max_len), end, device=device),
        num_ended=torch.zeros_like(rows),
        best_score=scores,
        best_log_prob=scores,
        best_sequences=torch.full((len(rows), num_best, max_len), end, device=device),
    )


def forbid(scores, said, options, *, end, banned):
    """Set the scores of tokens that may not come next to -inf, in place.

    scores: (N, V); said: (N, t) tokens before this one; banned: (X,) ids

    A caption to which no_repeat_ngram and banned leave no word may end before min_len.
    """
    length, size = said.shape[1], options.no_repeat_ngram
    scores.index_fill_(1, banned, -torch.inf)
    if options.pieces:
        mask, ending = options.pieces.forbidden(said.numpy(force=True), options, end), scores[:, end].clone()
        scores.masked_fill_(torch.from_numpy(mask).to(scores.device), -torch.inf)
        scores[:, end] = torch.where(scores.amax(dim=1) == -torch.inf, ending, scores[:, end])
        return
    if 0 < size <= length:
        runs = said.unfold(1, size, 1)  # (N, t - n + 1, n)
        again = (runs[:, :, :-1] == said[:, None, length - size + 1 :]).all(dim=2)
        last = runs[:, :, -1]  # the word that made each earlier run
        scores.scatter_reduce_(1, last, scores.gather(1, last).masked_fill(again, -torch.inf), "amin")
    if length < options.min_len:
        ending = scores[:, end].clone()
        scores[:, end] = -torch.inf
        scores[:, end] = torch.where(scores.amax(dim=1) == -torch.inf, ending, -torch.inf)


def extend(beams, total, t, options, end):
    """Advance every group by one token.

    total:   (M*W, V) log-probability of each live beam with each token after it
    returns: Beams, and the parent (M, W') of each of its live beams as a row of `total`
    """
    num, width = beams.log_prob.shape
    vocab_size, size = total.shape[1], options.beam_size // options.groups
    total = total.view(num, width * vocab_size)
    # Each beam offers one <end> at most, so 2K candidates hold K that go on.
    candidates = choose(total, min(2 * size, total.shape[1]), vocab_size, options, end)  # (M, C), best first
    log_prob, beam, token = total.gather(1, candidates), candidates // vocab_size, candidates % vocab_size

    # An <end> among the first K finishes a hypothesis; K of them finish the group, which makes K = 1 greedy.
    is_end = token == end
    ends = (is_end & (log_prob > -torch.inf))[:, :size]
    ended = log_prob[:, :size].masked_fill(~ends, -torch.inf)
    num_best = beams.best_score.shape[1]
    best_score, rank = torch.cat([beams.best_score, ended / (t + 1) ** options.length_penalty], 1).topk(num_best)
    source = torch.cat([torch.arange(num_best, device=beam.device).expand(num, -1), beam[:, :size] + num_best], 1)
    best_sequences = pick_sequences(torch.cat([beams.best_sequences, beams.sequences], 1), source.gather(1, rank))

    # The first K of the others live on.
    keep = is_end.sort(dim=1, stable=True).indices[:, :size]  # (M, W')
    beam = beam.gather(1, keep)
    sequences = pick_sequences(beams.sequences, beam)
    sequences[:, :, t] = token.gather(1, keep)
    extended = Beams(
        row=beams.row,
        log_prob=log_prob.masked_fill(is_end, -torch.inf).gather(1, keep),
        sequences=sequences,
        num_ended=beams.num_ended + ends.sum(dim=1),
        best_score=best_score,
        best_log_prob=torch.cat([beams.best_log_prob, ended], 1).gather(1, rank),
        best_sequences=best_sequences,
    )
    return extended, beam + torch.arange(num, device=beam.device)[:, None] * width


def pick_sequences(sequences, index):
    """Return sequences (M, W, T) at index (M, W')."""
    return sequences.gather(1, index[:, :, None].expand(-1, -1, sequences.shape[2]))


def choose(total, num_candidates, vocab_size, options, end):
    """Return the positions (M, C) in total (M, W*V) of each group's best candidates, best first.

    Later groups pay for the words that the beams of earlier ones go on with (Vijayakumar et al. 2016, algorithm 1).
    """
    groups, size = options.groups, options.beam_size // options.groups
    by_group = total.view(-1, groups, total.shape[1] // vocab_size, vocab_size)  # (R, G, W, V)
    if groups == 1:
        return best_positions(by_group[:, 0], num_candidates)[1]
    counts = total.new_zeros(len(by_group), vocab_size)
    chosen = []
    for group in by_group.unbind(dim=1):
        score, flat = best_positions(group - options.diversity * counts[:, None], num_candidates)
        token = flat % vocab_size
        lives = (token != end) & (score > -torch.inf)
        lives &= lives.cumsum(dim=1) <= size
        counts.scatter_add_(1, token, lives.to(counts.dtype))
        chosen.append(flat)
    return torch.stack(chosen, dim=1).flatten(0, 1)


def best_positions(scores, count):
    """Return the `count` largest of scores (R, W, V), largest first, and their positions (R, count) in (R, W*V).

    They are scores of the `count` words whose largest scores are largest, so the rest need not be sorted.
    """
    vocab_size = scores.shape[2]
    words = scores.amax(dim=1).topk(min(count, vocab_size), dim=1).indices  # (R, C)
    values, place = scores.gather(2, words[:, None].expand(-1, scores.shape[1], -1)).flatten(1).topk(count, dim=1)
    num_words = words.shape[1]
    return values, place // num_words * vocab_size + words.gather(1, place % num_words)


def keep_unfinished(beams, options):
    """Give groups in which nothing has ended their best live beam instead."""
    never = beams.best_score[:, 0] == -torch.inf
    log_prob, best = beams.log_prob.max(dim=1)
    sequence = pick_sequences(beams.sequences, best[:, None])[:, 0]
    score = log_prob / options.max_tokens**options.length_penalty
    beams.best_score[:, 0] = torch.where(never, score, beams.best_score[:, 0])
    beams.best_log_prob[:, 0] = torch.where(never, log_prob, beams.best_log_prob[:, 0])
    beams.best_sequences[:, 0] = torch.where(never[:, None], sequence, beams.best_sequences[:, 0])
    return beams


def collect(parts, batch_size, options, end):
    """Return the hypotheses of each row from Beams of its groups, as beam_search describes."""
    names = ("row", "best_score", "best_log_prob", "best_sequences")
    columns = [torch.cat([getattr(part, name) for part in parts]).tolist() for name in names]
    found = [[] for _ in range(batch_size)]  # (rank in its group, Hypothesis)
    for row, scores, log_probs, sequences in zip(*columns, strict=True):
        for rank, (score, log_prob, ids) in enumerate(zip(scores, log_probs, sequences, strict=True)):
            if rank == 0 or score > -math.inf:
                words = until(ids, end)
                found[row].append((rank, Hypothesis(words, log_prob, score, ended=len(words) < options.max_tokens)))
    results = []
    for row in found:
        row.sort(key=lambda pair: (pair[0], -pair[1].score))
        distinct = {}
        for _, hypothesis in row:
            distinct.setdefault(tuple(hypothesis.ids), hypothesis)
        results.append(list(distinct.values())[: options.num_best])
    return results


def until(ids, end):
    """Return `ids` up to, not including, the first `end`."""
    return ids[: ids.index(end)] if end in ids else ids


@torch.no_grad()
def sample(step, state, options, *, start, end, banned=(), generator=None):
    """Draw sequences at random.

    step, state, banned: as for beam_search
    options:   SamplingOptions
    generator: torch.Generator on any device; the same seed draws the same samples. None = torch's global one
    returns:   Samples; one that never ends has max_tokens tokens. Their log-probabilities are the model's own, as at
               temperature 1 with nothing cut off or forbidden, which is what a policy gradient needs

    With top_k and top_p the smaller set counts; top_p is of the whole probability, not of that of the top_k.
    Every sample consumes one number a step whether or not it has ended, so none depends on when the others end.
    Sources: top_p is the nucleus of Holtzman et al. 2019 (arXiv:1904.09751), top_k after Fan et al. 2018
    (arXiv:1805.04833).
    """
    batch_size, device = len(state[0]), state[0].device
    num = batch_size * options.num_samples
    banned = torch.tensor(banned, dtype=torch.long, device=device)
    state = tuple(part.repeat_interleave(options.num_samples, dim=0) for part in state)
    tokens = torch.full((num,), start, device=device)
    sequences = torch.full((num, options.max_tokens), end, device=device)
    token_log_probs = torch.zeros(num, options.max_tokens, device=device)
    active = torch.arange(num, device=device)  # samples that have not ended

    for t in range(options.max_tokens):
        log_probs, state = step(tokens, state)
        uniform = torch.rand(num, generator=generator, device=generator.device if generator else device)
        allowed = log_probs / options.temperature
        forbid(allowed, sequences[active, :t], options, end=end, banned=banned)
        tokens = draw(allowed, uniform.to(device)[active], options)
        sequences[active, t] = tokens
        token_log_probs[active, t] = log_probs.gather(1, tokens[:, None])[:, 0].float()
        going = (tokens != end).nonzero()[:, 0]  # the one wait for the device
        if len(going) < len(active):
            active, tokens, state = active[going], tokens[going], tuple(part[going] for part in state)
        if not len(active):
            break

    lengths = ((sequences != end).sum(dim=1) + 1).clamp(max=options.max_tokens)
    shape = (batch_size, options.num_samples, -1)
    return Samples(
        sequences[:, : t + 1].reshape(shape), token_log_probs[:, : t + 1].reshape(shape), lengths.view(shape[:2])
    )


def sample_captions(step, state, options, **special):
    """Draw captions for each row: B lists of distinct Hypothesis, the likeliest first; their score is log_prob.

    step, state: as for beam_search; special: start, end and banned of `sample`

    Each row has a generator of its own that begins with options.seed, so no image changes what is drawn for another.
    """
    found = []
    for row in range(len(state[0])):
        generator = torch.Generator().manual_seed(options.seed)
        own = tuple(part[row : row + 1] for part in state)
        tokens, log_probs, lengths = (
            part[0].tolist() for part in sample(step, own, options, generator=generator, **special)
        )
        drawn = {}
        for ids, values, length in zip(tokens, log_probs, lengths, strict=True):
            words = until(ids[:length], special["end"])
            log_prob = sum(values[:length])
            drawn[tuple(words)] = Hypothesis(words, log_prob, log_prob, ended=len(words) < length)
        found.append(sorted(drawn.values(), key=lambda hypothesis: -hypothesis.score))
    return found


def draw(scores, uniform, options):
    """Draw a token (N,) from the softmax of scores (N, V), cut to top_k and top_p, by uniform (N,) in [0, 1)."""
    probs = scores.softmax(dim=1)
    if not options.top_k and options.top_p == 1:
        cumulative = probs.cumsum(dim=1)
        return torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    probs, order = probs.sort(dim=1, descending=True)
    cumulative = probs.cumsum(dim=1)
    most = min(options.top_k or probs.shape[1], probs.shape[1])
    # Likeliest first, so what may be drawn is a prefix, and ends where the probability first reaches top_p.
    last = (cumulative < options.top_p).sum(dim=1).clamp(max=most - 1) if options.top_p < 1 else most - 1
    last = torch.as_tensor(last, device=probs.device).expand(len(probs))[:, None]
    place = torch.searchsorted(cumulative, uniform[:, None] * cumulative.gather(1, last), right=True)
    return order.gather(1, place)[:, 0]


def ensemble(steps, states):
    """Return (step, state) of several models over one vocabulary that decode as one: their probabilities' mean.

    steps, states: the models' own, in the same order; rows of the states belong together
    Raises ValueError if there are no models, or not one state each.
    """
    if not steps or len(steps) != len(states):
        raise ValueError(f"ensemble: got {len(steps)} models and {len(states)} states, allowed is one state a model")
    ends = torch.tensor([len(state) for state in states]).cumsum(0).tolist()

    def step(tokens, state):
        parts = [state[begin:stop] for begin, stop in zip([0, *ends], ends, strict=False)]
        results = [one(tokens, part) for one, part in zip(steps, parts, strict=True)]
        log_probs = torch.stack([log_probs for log_probs, _ in results])
        mean = log_probs.logsumexp(dim=0) - math.log(len(steps))
        return mean, tuple(tensor for _, part in results for tensor in part)

    return step, tuple(tensor for state in states for tensor in state)
