"""Beam search over a whole batch and a whole fleet at once, and BLEU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from threeregime.data.vocabulary import BOS, EOS, PAD

Next = Callable[[Tensor], Tensor]
"""Logits of the next piece, [rows, pieces], for what stands in each row so far, [rows, t]."""


def beam_search(
    following: Next, count: int, longest: int, beam: int = 4, penalty: float = 0.6
) -> Tensor:
    """The best continuation that is found for each of ``count`` rows.

    Candidates are compared by log-probability / ((5 + length) / 6) ** penalty, EOS counting towards
    the length (Wu et al., 2016); beam 4 and penalty 0.6 are those of Vaswani et al. (2017). One
    that has ended stays among the candidates as it is. A beam of 1 is greedy search.

    Args:
        following: what the net says; its rows are [count x beam], those of one sentence together.
        count: sentences.
        longest: pieces after which a search gives up.
        beam: candidates that are followed.
        penalty: 0 prefers short sentences, 1 compares means.

    Returns:
        [count, longest + 1] int64: BOS, the pieces, EOS, PAD; no EOS where none was found.
    """
    rows = torch.full((count * beam, 1), BOS)
    total = torch.full((count, beam), -torch.inf)
    total[:, 0] = 0  # they all begin alike: one is enough
    length = torch.zeros(count, beam)
    ended = torch.zeros(count, beam, dtype=torch.bool)
    base = torch.arange(count)[:, None] * beam
    for _ in range(longest):
        step = following(rows).to("cpu", torch.float32).log_softmax(dim=-1).view(count, beam, -1)
        pieces = step.shape[-1]
        step[..., [PAD, BOS]] = -torch.inf
        # One that has ended goes on with PAD alone, at no cost.
        step[ended] = torch.full((pieces,), -torch.inf).index_fill(0, torch.tensor(PAD), 0.0)
        candidate = total[..., None] + step
        longer = length + ~ended
        value = candidate / ((5 + longer[..., None]) / 6) ** penalty
        best = value.flatten(1).topk(beam, dim=1).indices
        parent, piece = best // pieces, best % pieces
        total = candidate.flatten(1).gather(1, best)
        length = longer.gather(1, parent)
        ended = ended.gather(1, parent) | (piece == EOS)
        rows = torch.cat([rows[(base + parent).flatten()], piece.view(-1, 1)], dim=1)
        if ended.all():
            break
    value = total / ((5 + length) / 6) ** penalty
    chosen = rows[(base[:, 0] + value.argmax(dim=1))]
    return torch.nn.functional.pad(chosen, (0, longest + 1 - chosen.shape[1]), value=PAD)


def bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU as sacrebleu has it (Post, 2018), from 0 to 1."""
    import sacrebleu

    return sacrebleu.corpus_bleu(translations, [references]).score / 100
