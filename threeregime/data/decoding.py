"""Beam search over a batch of sentences and all members of a fleet at once, and BLEU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from threeregime.data.vocabulary import BOS, EOS, PAD

NextLogits = Callable[[Tensor], Tensor]
"""Logits of the next token, [rows, vocabulary], given the tokens of each row so far, [rows, t]."""


def beam_search(
    next_logits: NextLogits, count: int, max_length: int, beam: int = 4, penalty: float = 0.6
) -> Tensor:
    """Return the best continuation found for each of ``count`` sentences.

    Candidates are compared by log-probability / ((5 + length) / 6) ** penalty, EOS counting towards
    the length (Wu et al., 2016); beam 4 and penalty 0.6 are those of Vaswani et al. (2017). A
    candidate that has ended stays in the beam unchanged. A beam of 1 is greedy search.

    Args:
        next_logits: the net, for [count x beam] rows, those of one sentence together.
        count: number of sentences.
        max_length: number of tokens after which the search stops.
        beam: number of candidates per sentence.
        penalty: 0 prefers short sentences, 1 compares means.

    Returns:
        [count, max_length + 1] int64: BOS, tokens, EOS (unless the search stopped before), PAD.
    """
    rows = torch.full((count * beam, 1), BOS)
    log_probability = torch.full((count, beam), -torch.inf)
    log_probability[:, 0] = 0  # all candidates begin the same: one is enough
    length = torch.zeros(count, beam)
    ended = torch.zeros(count, beam, dtype=torch.bool)
    first_row = torch.arange(count)[:, None] * beam
    for _ in range(max_length):
        step = next_logits(rows).to("cpu", torch.float32).log_softmax(dim=-1)
        step = step.view(count, beam, -1)
        size = step.shape[-1]
        step[..., [PAD, BOS]] = -torch.inf
        # An ended candidate continues with PAD alone, at no cost.
        step[ended] = torch.full((size,), -torch.inf).index_fill(0, torch.tensor(PAD), 0.0)
        candidates = log_probability[..., None] + step
        lengths = length + ~ended
        scores = candidates / ((5 + lengths[..., None]) / 6) ** penalty
        best = scores.flatten(1).topk(beam, dim=1).indices
        parent, token = best // size, best % size
        log_probability = candidates.flatten(1).gather(1, best)
        length = lengths.gather(1, parent)
        ended = ended.gather(1, parent) | (token == EOS)
        rows = torch.cat([rows[(first_row + parent).flatten()], token.view(-1, 1)], dim=1)
        if ended.all():
            break
    scores = log_probability / ((5 + length) / 6) ** penalty
    best_rows = rows[first_row[:, 0] + scores.argmax(dim=1)]
    return torch.nn.functional.pad(best_rows, (0, max_length + 1 - rows.shape[1]), value=PAD)


def bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return sacrebleu's corpus BLEU (Post, 2018), from 0 to 1."""
    import sacrebleu

    return sacrebleu.corpus_bleu(translations, [references]).score / 100
