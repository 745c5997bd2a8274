"""Search for a likely sequence, over token ids only: beam search, whose beam of one is greedy search.

The model is a function `step(tokens (N,), state) -> (log-probs (N, V), state)`; `state` is a tuple of tensors whose
first dimension is N, so that rows and beams can be picked by index.
"""

import torch


def beam_search(step, state, batch_size, *, start, end, beam_size, max_len, length_penalty=0.7, banned=()):
    """Find a likely sequence for each row; rows and beams advance together.

    step:    (tokens (N,), state) -> (log-probs (N, V), state), N = B * K
    state:   tuple of tensors (B, ...), one row per image; it is repeated for the beams here
    banned:  ids that are never chosen (<unk>, <pad>, <start>)
    returns: B pairs (ids without <start>/<end>, log p / len**length_penalty, nats; len counts <end>)

    beam_size=1 is exactly greedy. A row that never ends returns its best unfinished beam.
    Source: after Wu et al. 2016 (arXiv:1609.08144), with plain len**alpha.
    """
    if beam_size < 1 or max_len < 1:
        raise ValueError(f"beam_size and max_len: got {beam_size} and {max_len}, allowed is 1 or more")
    device = state[0].device
    state = tuple(part.repeat_interleave(beam_size, dim=0) for part in state)  # (B*K, ...)
    tokens = torch.full((batch_size * beam_size,), start, device=device)
    # Only the first beam of each row starts alive: K equal beams would find the same sequence K times.
    alive = torch.full((batch_size, beam_size), -torch.inf, device=device)
    alive[:, 0] = 0.0
    sequences = torch.full((batch_size, beam_size, max_len), end, device=device)
    done = torch.zeros(batch_size, dtype=torch.bool, device=device)
    num_finished = torch.zeros(batch_size, dtype=torch.long, device=device)
    best_score = torch.full((batch_size,), -torch.inf, device=device)
    best_sequence = torch.full((batch_size, max_len), end, device=device)
    first_row = torch.arange(batch_size, device=device)[:, None] * beam_size  # (B, 1)

    for t in range(max_len):
        log_probs, state = step(tokens, state)
        log_probs[:, list(banned)] = -torch.inf
        vocab_size = log_probs.shape[1]
        total = alive[:, :, None] + log_probs.view(batch_size, beam_size, vocab_size)  # (B, K, V)

        # Each beam offers one <end> at most, so 2K candidates hold K that go on.
        total = total.flatten(1)
        score, flat = total.topk(min(2 * beam_size, total.shape[1]), dim=1)  # (B, 2K), best first
        beam, token = flat // vocab_size, flat % vocab_size

        # An <end> among the first K finishes a hypothesis; K of them finish the row, which makes K = 1 greedy.
        ends = (token == end) & (score > -torch.inf)
        ends[:, beam_size:] = False
        final = (score / (t + 1) ** length_penalty).masked_fill(~ends | done[:, None], -torch.inf)
        final, rank = final.max(dim=1)
        better = final > best_score
        best_score = torch.where(better, final, best_score)
        parent = beam.gather(1, rank[:, None])[:, :, None].expand(-1, 1, max_len)
        best_sequence = torch.where(better[:, None], sequences.gather(1, parent).squeeze(1), best_sequence)
        num_finished += ends.sum(dim=1)

        alive, keep = score.masked_fill(token == end, -torch.inf).topk(beam_size, dim=1)  # (B, K)
        beam, token = beam.gather(1, keep), token.gather(1, keep)
        sequences = sequences.gather(1, beam[:, :, None].expand(-1, -1, max_len))
        sequences[:, :, t] = token
        rows = (first_row + beam).flatten()
        state = tuple(part[rows] for part in state)
        tokens = token.flatten()

        # Scores only fall, so no unfinished beam can end better than its score now over the full length.
        done = (num_finished >= beam_size) | (best_score >= alive[:, 0] / max_len**length_penalty)
        if done.all():
            break

    scores, best = best_score.tolist(), best_sequence.tolist()
    unfinished, last_score = sequences[:, 0].tolist(), (alive[:, 0] / max_len**length_penalty).tolist()
    return [
        (until(best[row], end), scores[row])
        if scores[row] > -torch.inf
        else (until(unfinished[row], end), last_score[row])
        for row in range(batch_size)
    ]


def until(ids, end):
    """Return `ids` up to, not including, the first `end`."""
    return ids[: ids.index(end)] if end in ids else ids
