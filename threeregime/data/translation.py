"""Translation from German to English (Figure 14): the paper's WMT14, and numbers in words.

To add a corpus: write a loader that returns a :class:`Translation` and give it an entry in
:data:`TRANSLATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from threeregime.data.decoding import beam_search, bleu
from threeregime.data.task import EVALUATION_BATCH, IGNORED_TARGET, Nets, Task
from threeregime.data.vocabulary import PAD, Numerals, SubWords, Vocabulary, encode_pairs
from threeregime.errors import ThreeRegimeError

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Translation(Task):
    """Pairs of a source and a target sentence as tokens.

    A row is the source padded with PAD, then the target: BOS, its tokens, EOS, PAD. Every row is as
    long as the longest, so that all batches have one shape.

    Attributes:
        train, test: [count, source_length + t] int32.
        source_length: length of the padded source.
        references: the test targets as text.
        beam: number of candidates of the beam search; 1 is greedy search.
    """

    kind: ClassVar[str] = "sentences"
    vocabulary: Vocabulary
    train: Tensor
    test: Tensor
    source_length: int
    references: tuple[str, ...]
    beam: int = 4

    @classmethod
    def from_pairs(
        cls, name: str, vocabulary: Vocabulary, train: Pairs, test: Pairs, limit: int | None = None
    ) -> Translation:
        """Encode text, without training pairs whose sentences have over ``limit`` tokens."""
        indices = encode_pairs(vocabulary, train, limit)[2]
        source, target, _ = encode_pairs(vocabulary, [train[n] for n in indices] + test)
        rows, count = torch.cat([source, target], dim=1), len(indices)
        references = tuple(target for _, target in test)
        return cls(name, vocabulary, rows[:count], rows[count:], source.shape[1], references)

    @property
    def net_sizes(self) -> tuple[int, int]:
        """Length of the source and size of the vocabulary."""
        return self.source_length, self.vocabulary.size

    def split(self, train: bool) -> tuple[Tensor]:
        """Return the rows of a split."""
        return (self.train if train else self.test,)

    def prepare(self, examples: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return input tokens and targets."""
        return self.shifted(examples[0])

    def reduced(self, examples: int | None, size: int | None) -> Translation:
        """Return the task with the first training pairs; sentences have no size to reduce."""
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
        """Return rows without the last token, [batch, source_length + t - 1]."""
        return torch.zeros(batch, self.train.shape[1] - 1, dtype=torch.int64)

    def shifted(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Split rows into input tokens [..., source_length + t - 1] and targets [..., t - 1].

        The input holds the true target up to each position (teacher forcing). The target there is
        the next token, or ignored where that is padding.
        """
        tokens = rows.long()
        targets = tokens[..., self.source_length + 1 :]
        return tokens[..., :-1], targets.masked_fill(targets == PAD, IGNORED_TARGET)

    def errors(self, fleet: Nets, train: bool) -> Tensor:
        """Return the share of wrong tokens under teacher forcing in training, 1 - BLEU in test."""
        if train:
            return super().errors(fleet, train)
        scores = [bleu(texts, self.references) for texts in self.translate(fleet, self.test)]
        return 1 - torch.tensor(scores, dtype=torch.float64, device=fleet.device)

    def translate(self, fleet: Nets, rows: Tensor) -> list[list[str]]:
        """Return each member's translations of the sources of rows [count, source_length + t]."""
        members = fleet.members
        max_length = rows.shape[1] - self.source_length - 1
        translations: list[list[str]] = [[] for _ in range(members)]
        for sources in rows[:, : self.source_length].long().split(EVALUATION_BATCH):
            # [batch x beam, M, ...]: the members are more sentences to the search
            repeated = fleet.broadcast(sources.repeat_interleave(self.beam, dim=0))
            memory = fleet.logits(fleet.broadcast(sources)).transpose(0, 1)
            memory = memory.repeat_interleave(self.beam, dim=0)
            next_logits = partial(self._next_logits, fleet, repeated, memory)
            tokens = beam_search(next_logits, members * len(sources), max_length, self.beam)
            for member, batch in enumerate(tokens.view(members, len(sources), -1).tolist()):
                translations[member] += [self.vocabulary.decode(row) for row in batch]
        return translations

    def _next_logits(self, fleet: Nets, source: Tensor, memory: Tensor, tokens: Tensor) -> Tensor:
        target = tokens.to(source.device).view(fleet.members, len(source), -1).transpose(0, 1)
        logits = fleet.logits(torch.cat([source, target], dim=2), memory)
        return logits[:, :, -1].flatten(0, 1)


def number_words(root: Path, download: bool) -> Translation:
    """Return the numbers up to 9,999 in words, by num2words: 2,000 training pairs, 300 for test.

    German puts the ones before the tens and writes it all in one word: dreiundvierzig is
    forty-three. Tokens are the German stems, the English words and the signs.
    """
    from num2words import num2words

    numbers = np.random.default_rng(0).permutation(9999)[:2300] + 1
    pairs = [(num2words(int(n), lang="de"), num2words(int(n), lang="en")) for n in numbers]
    train, test = pairs[:2000], pairs[2000:]
    vocabulary = Numerals(sentence for pair in train for sentence in pair)
    return Translation.from_pairs("number-words", vocabulary, train, test)


WMT14_VOCABULARY, WMT14_MAX_TOKENS = 32_000, 64
"""Size of the vocabulary, and tokens of the longest training sentence (ours)."""


def wmt14(root: Path, download: bool) -> Translation:
    """Load WMT14 from ``root/wmt14``: train.de, train.en, test.de, test.en, one sentence per line.

    Raises:
        ThreeRegimeError: a file is missing, or two differ in their number of lines.
    """
    folder = root / "wmt14"
    if download and not folder.exists():
        _download_wmt14(folder)
    train, test = (_read_pairs(folder, part) for part in ("train", "test"))
    vocabulary = SubWords([folder / "train.de", folder / "train.en"], WMT14_VOCABULARY)
    return Translation.from_pairs("wmt14", vocabulary, train, test, WMT14_MAX_TOKENS)


def _read_pairs(folder: Path, part: str) -> Pairs:
    languages = []
    for language in ("de", "en"):
        path = folder / f"{part}.{language}"
        if not path.is_file():
            raise ThreeRegimeError(
                f"{path} is missing: put train.de, train.en, test.de and test.en there, one "
                "sentence per line, or add --download (with the library datasets installed)"
            )
        languages.append(path.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    german, english = languages
    if len(german) != len(english):
        raise ThreeRegimeError(
            f"{folder}: {part}.de has {len(german)} lines and {part}.en {len(english)}; they have "
            "to be translations of each other, line by line"
        )
    return list(zip(german, english, strict=True))


def _download_wmt14(folder: Path) -> None:
    """Write the files from Hugging Face's copy; the paper reports the validation set."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ThreeRegimeError(
            "wmt14 is downloaded by the library datasets: pip install datasets"
        ) from error
    corpus = datasets.load_dataset("wmt14", "de-en")
    folder.mkdir(parents=True)
    for part, split in (("train", "train"), ("test", "validation")):
        for language in ("de", "en"):
            with (folder / f"{part}.{language}").open("w", encoding="utf-8") as file:
                for pair in corpus[split]["translation"]:
                    print(" ".join(pair[language].split()), file=file)


TRANSLATIONS: dict[str, Callable[[Path, bool], Translation]] = {
    "number-words": number_words,
    "wmt14": wmt14,
}
"""Loaders by name, given the folder of downloaded data and whether to download what is missing."""
