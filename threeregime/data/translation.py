"""Translation from German to English (Figure 14): the paper's WMT14, and numbers in words.

To add a corpus: write a loader that returns a :class:`Translation` and give it an entry in
:data:`TRANSLATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime.data.decoding import beam_search, bleu
from threeregime.data.task import EVALUATION_BATCH, IGNORED_TARGET, Batches, Draws, Nets, Task
from threeregime.data.vocabulary import PAD, Numerals, SubWords, Vocabulary, encode_pairs
from threeregime.errors import ThreeRegimeError

if TYPE_CHECKING:
    pass

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Translation(Task):
    """Sentences and their translations as numbers.

    A row is the source filled up by PAD, then the target's: BOS, its pieces, EOS, PAD. Every row
    is as long as the longest, so that all batches have one shape.

    Attributes:
        train, test: [count, places + t] int32.
        places: length of the source in a row.
        references: the test targets as text.
        beam: candidates that the search for a translation follows; 1 is greedy search.
    """

    kind: ClassVar[str] = "sentences"
    name: str
    vocabulary: Vocabulary
    train: Tensor
    test: Tensor
    source_length: int
    references: tuple[str, ...]
    beam: int = 4

    @classmethod
    def from_pairs(
        cls, name: str, vocabulary: Vocabulary, train: Pairs, test: Pairs, most: int | None = None
    ) -> Translation:
        """Make one of text; training pairs with a sentence of more than ``most`` pieces go."""
        fitting = encode_pairs(vocabulary, train, most)[2]
        source, target, _ = encode_pairs(vocabulary, [train[n] for n in fitting] + test)
        whole, count = torch.cat([source, target], dim=1), len(fitting)
        references = tuple(target for _, target in test)
        return cls(name, vocabulary, whole[:count], whole[count:], source.shape[1], references)

    @property
    def count(self) -> int:
        """Number of training pairs."""
        return len(self.train)

    @property
    def net_sizes(self) -> tuple[int, int]:
        """Places of the source and pieces of the vocabulary."""
        return self.source_length, self.vocabulary.size

    def to(self, device: torch.device | str) -> Translation:
        """Return the same with its rows on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def reduced(self, examples: int | None, size: int | None) -> Translation:
        """The same with the first so many training pairs; sentences cannot be made smaller.

        Raises:
            ThreeRegimeError: a size, or more pairs than there are.
        """
        if size is not None:
            raise ThreeRegimeError(
                f"data.size = {size} is not allowed: {self.name} holds sentences, not images"
            )
        if examples is not None and examples > self.count:
            raise ThreeRegimeError(
                f"data.images = {examples} is not allowed: {self.name} has {self.count} training "
                "sentences"
            )
        return replace(self, train=self.train[:examples])

    def dummy_input(self, batch: int) -> Tensor:
        """Rows without the last piece, [batch, places + t - 1]."""
        return torch.zeros(batch, self.train.shape[1] - 1, dtype=torch.int64)

    def loader(self, seeds: Sequence[int], batch_size: int) -> SentenceBatches:
        """Return batches of pairs, in an order of each member's own."""
        return SentenceBatches(self, seeds, batch_size)

    def shifted(self, taken: Tensor) -> tuple[Tensor, Tensor]:
        """What a net is told [..., places + t - 1], and which piece comes next [..., t - 1].

        Of each target it is told the true beginning, whatever it would have said itself (teacher
        forcing). Nothing is to be guessed where the target is filled up.
        """
        whole = taken.long()
        following = whole[..., self.source_length + 1 :]
        return whole[..., :-1], following.masked_fill(following == PAD, IGNORED_TARGET)

    def evaluation_batches(
        self, train: bool, dtype: torch.dtype, first: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of a split in their order."""
        for part in (self.train if train else self.test)[:first].split(EVALUATION_BATCH):
            yield self.shifted(part)

    def input_batches(self, most: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """What a net is told of the training pairs."""
        for part in self.train.tensor_split(-(-self.count // most)):
            yield self.shifted(part)[0]

    def loss(self, outputs: Tensor, truth: Tensor, smoothing: float) -> Tensor:
        """Mean over the pieces that a member is to guess, summed over members."""
        each = F.cross_entropy(
            outputs.flatten(0, -2), truth.flatten(), reduction="none", label_smoothing=smoothing
        )
        each, known = each.view(len(truth), -1), (truth != IGNORED_TARGET).flatten(1)
        return (each.sum(dim=1) / known.sum(dim=1)).sum()

    def errors(self, fleet: Nets, train: bool) -> Tensor:
        """In training the share of pieces guessed wrong under teacher forcing; in test 1 - BLEU."""
        if train:
            return super().errors(fleet, train)
        scores = [bleu(made, self.references) for made in self.translate(fleet, self.test)]
        return 1 - torch.tensor(scores, dtype=torch.float64, device=fleet.device)

    def translate(self, fleet: Nets, taken: Tensor) -> list[list[str]]:
        """Each member's translations of the sources of some rows."""
        members = fleet.members
        longest = taken.shape[1] - self.source_length - 1
        made: list[list[str]] = [[] for _ in range(members)]
        for part in taken[:, : self.source_length].long().split(EVALUATION_BATCH):
            # [batch x beam, M, ...]: the search sees the members as so many more sentences
            source = fleet.broadcast(part.repeat_interleave(self.beam, dim=0))
            memory = fleet.logits(fleet.broadcast(part)).transpose(0, 1)
            memory = memory.repeat_interleave(self.beam, dim=0)
            following = self._following(fleet, source, memory)
            found = beam_search(following, members * len(part), longest, self.beam)
            for member, rows_of in enumerate(found.view(members, len(part), -1).tolist()):
                made[member] += [self.vocabulary.decode(row) for row in rows_of]
        return made

    def _following(self, fleet: Nets, source: Tensor, memory: Tensor) -> Callable[[Tensor], Tensor]:
        def following(begun: Tensor) -> Tensor:
            target = begun.to(source.device).view(fleet.members, len(source), -1).transpose(0, 1)
            logits = fleet.logits(torch.cat([source, target], dim=2), memory)
            return logits[:, :, -1].flatten(0, 1)

        return following


class SentenceBatches(Batches):
    """Batches of pairs."""

    def __init__(self, data: Translation, seeds: Sequence[int], batch_size: int) -> None:
        super().__init__(data, seeds, batch_size, data.train.device)
        self.data = data

    def draw_member(self, generator: torch.Generator) -> Draws:
        """Draw one member's epoch: its order [count]."""
        return (torch.randperm(self.data.count, generator=generator),)

    def batch(self, part: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Rows [batch, members, places + t - 1], next pieces [members, batch, t - 1]."""
        told, following = self.data.shifted(self.data.train[part[0]])
        return told, following.transpose(0, 1)


def number_words(root: Path, download: bool) -> Translation:
    """The numbers up to 9,999 in words, by num2words: 2,000 pairs to learn from, 300 to test.

    German puts the ones before the tens and writes it all in one word: dreiundvierzig is
    forty-three. Pieces are the German stems and the English words and signs.
    """
    from num2words import num2words

    drawn = np.random.default_rng(0).permutation(9999)[:2300] + 1
    pairs = [(num2words(int(n), lang="de"), num2words(int(n), lang="en")) for n in drawn]
    train, test = pairs[:2000], pairs[2000:]
    vocabulary = Numerals(sentence for pair in train for sentence in pair)
    return Translation.from_pairs("number-words", vocabulary, train, test)


WMT14_PIECES, WMT14_LONGEST = 32_000, 64
"""Size of the vocabulary, and pieces of the longest sentence that is kept (ours)."""


def wmt14(root: Path, download: bool) -> Translation:
    """WMT14 from ``root/wmt14``: train.de, train.en, test.de, test.en, a sentence a line.

    Raises:
        ThreeRegimeError: a file is missing, or two do not have as many lines.
    """
    at = root / "wmt14"
    if download and not at.exists():
        _fetch(at)
    train, test = (_parallel(at, part) for part in ("train", "test"))
    vocabulary = SubWords([at / "train.de", at / "train.en"], WMT14_PIECES)
    return Translation.from_pairs("wmt14", vocabulary, train, test, WMT14_LONGEST)


def _parallel(at: Path, part: str) -> Pairs:
    sides = []
    for language in ("de", "en"):
        path = at / f"{part}.{language}"
        if not path.is_file():
            raise ThreeRegimeError(
                f"{path} is missing: put train.de, train.en, test.de and test.en there, a sentence "
                "a line, or add --download (with the library datasets installed)"
            )
        sides.append(path.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    if len(sides[0]) != len(sides[1]):
        raise ThreeRegimeError(
            f"{at}: {part}.de has {len(sides[0])} lines and {part}.en {len(sides[1])}; they have "
            "to be translations of each other, line by line"
        )
    return list(zip(*sides, strict=True))


def _fetch(at: Path) -> None:
    """Write the files from Hugging Face's copy; the validation set is what the paper reports."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ThreeRegimeError(
            "wmt14 is downloaded by the library datasets: pip install datasets"
        ) from error
    whole = datasets.load_dataset("wmt14", "de-en")
    at.mkdir(parents=True)
    for part, split in (("train", "train"), ("test", "validation")):
        for language in ("de", "en"):
            with (at / f"{part}.{language}").open("w", encoding="utf-8") as file:
                for pair in whole[split]["translation"]:
                    print(" ".join(pair[language].split()), file=file)


TRANSLATIONS: dict[str, Callable[[Path, bool], Translation]] = {
    "number-words": number_words,
    "wmt14": wmt14,
}
"""Loaders by name, given the folder of downloaded data and whether to fetch what is missing."""
