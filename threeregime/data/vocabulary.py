"""Vocabularies: how a sentence becomes pieces, each a number, and pieces become a sentence."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threeregime.errors import ThreeRegimeError

PAD, BOS, EOS, UNKNOWN_TOKEN = range(4)
"""Tokens of every vocabulary that are no text: padding, a target's first and last one, and the one
for what is not in the vocabulary."""
SPECIAL_TOKENS = 4
"""Number of these tokens."""


class Vocabulary(ABC):
    """One vocabulary for both languages. Numbers from SPECIAL up are pieces of text."""

    size: int

    @abstractmethod
    def encode(self, sentence: str) -> list[int]:
        """The numbers of a sentence's pieces."""

    @abstractmethod
    def join(self, numbers: list[int]) -> str:
        """The sentence that pieces of text make."""

    def decode(self, numbers: Iterable[int]) -> str:
        """The sentence that ends at the first EOS; what is no text is left out."""
        kept = []
        for number in numbers:
            if number == EOS:
                break
            if number >= SPECIAL_TOKENS:
                kept.append(number)
        return self.join(kept)


# What German writes as one word falls apart into these; longer ones come before their beginnings.
_STEMS = (
    "hundert|tausend|zwanzig|zwölf|zwei|eins|ein|drei|vier|fünf|sechs|sech|sieben|sieb|acht|neun|"
    "zehn|elf|und|zig|ßig"
)
_NUMERAL = re.compile(f"({_STEMS}|[-,])| ?([a-z]+)")


def split_numeral(sentence: str) -> list[str]:
    """Pieces of a number in words: German stems; English words, each after a space; signs.

    >>> numerals("dreiundvierzig"), numerals("forty-three")
    (['drei', 'und', 'vier', 'zig'], [' forty', '-', ' three'])
    """
    return [found[1] or f" {found[2]}" for found in _NUMERAL.finditer(sentence)]


class Numerals(Vocabulary):
    """The pieces of numbers in words.

    Args:
        sentences: those whose pieces make the vocabulary.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self.pieces = sorted({piece for sentence in sentences for piece in split_numeral(sentence)})
        self.number = {piece: SPECIAL_TOKENS + n for n, piece in enumerate(self.pieces)}
        self.size = SPECIAL_TOKENS + len(self.pieces)

    def encode(self, sentence: str) -> list[int]:
        """The numbers of a sentence's pieces."""
        return [self.number.get(piece, UNKNOWN_TOKEN) for piece in split_numeral(sentence)]

    def join(self, numbers: list[int]) -> str:
        """The sentence that pieces of text make."""
        text = "".join(self.pieces[number - SPECIAL_TOKENS] for number in numbers)
        return text.strip().replace("- ", "-")


class SubWords(Vocabulary):
    """Byte-pair encoding of both languages together, by SentencePiece.

    Args:
        files: text to learn from, a sentence a line.
        size: pieces in the vocabulary.
    """

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.model = _sentencepiece(files, size)
        self.size = self.model.get_piece_size()

    def encode(self, sentence: str) -> list[int]:
        """The numbers of a sentence's pieces."""
        return list(self.model.encode(sentence))

    def join(self, numbers: list[int]) -> str:
        """The sentence that pieces of text make."""
        return str(self.model.decode(numbers))


def _sentencepiece(files: Sequence[Path], size: int) -> Any:
    """Learn a model, or read the one that was learned beside the first file."""
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise ThreeRegimeError(
            "wmt14 needs the library sentencepiece: pip install sentencepiece==0.2.3"
        ) from error
    path = files[0].parent / f"pieces-{size}.model"
    if not path.exists():
        sentencepiece.SentencePieceTrainer.train(
            input=",".join(map(str, files)),
            model_prefix=str(path.with_suffix("")),
            vocab_size=size,
            hard_vocab_limit=False,  # a small text has fewer pieces
            model_type="bpe",
            byte_fallback=True,  # of a rare letter, so that it is not lost
            input_sentence_size=2_000_000,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNKNOWN_TOKEN,
            minloglevel=1,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def encode_pairs(
    vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]], most: int | None = None
) -> tuple[Tensor, Tensor, list[int]]:
    """Sentences as rows of numbers, filled up by PAD.

    Args:
        vocabulary: of both languages.
        pairs: source and target.
        most: pieces of a sentence; pairs with a longer one are left out. None: all are kept.

    Returns:
        Sources [count, s], each ending in EOS; targets [count, t], each between BOS and EOS;
        both int32; and which of the pairs they are.
    """
    made, kept = [], []
    for number, pair in enumerate(pairs):
        source, target = (vocabulary.encode(sentence) for sentence in pair)
        if most is None or max(len(source), len(target)) <= most:
            made.append(([*source, EOS], [BOS, *target, EOS]))
            kept.append(number)
    return (*(_filled([row[side] for row in made]) for side in (0, 1)), kept)  # type: ignore[return-value]


def _filled(rows: Sequence[Sequence[int]]) -> Tensor:
    parts = [torch.tensor(row, dtype=torch.int32) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=PAD)
