"""Vocabularies: a sentence as tokens, each an integer, and back."""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threeregime.errors import ThreeRegimeError

PAD, BOS, EOS, UNKNOWN_TOKEN = range(4)
"""Special tokens of every vocabulary: padding, begin and end of a target, text outside of it."""
SPECIAL_TOKENS = 4
"""Number of special tokens; tokens of text follow."""


class Vocabulary(ABC):
    """One vocabulary for both languages."""

    size: int

    @abstractmethod
    def encode(self, sentence: str) -> list[int]:
        """Return the tokens of a sentence."""

    @abstractmethod
    def _join(self, tokens: list[int]) -> str:
        """Return the sentence of tokens of text."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the sentence up to the first EOS, without special tokens."""
        sentence = itertools.takewhile(lambda token: token != EOS, tokens)
        return self._join([token for token in sentence if token >= SPECIAL_TOKENS])


# The parts of German numerals, which are one word; longer stems before their own beginnings.
_STEMS = (
    "hundert|tausend|zwanzig|zwölf|zwei|eins|ein|drei|vier|fünf|sechs|sech|sieben|sieb|acht|neun|"
    "zehn|elf|und|zig|ßig"
)
_NUMERAL = re.compile(f"({_STEMS}|[-,])| ?([a-z]+)")


def split_numeral(sentence: str) -> list[str]:
    """Return the parts of a number in words: German stems; English words after a space; signs.

    >>> split_numeral("dreiundvierzig"), split_numeral("forty-three")
    (['drei', 'und', 'vier', 'zig'], [' forty', '-', ' three'])
    """
    return [match[1] or f" {match[2]}" for match in _NUMERAL.finditer(sentence)]


class Numerals(Vocabulary):
    """Vocabulary of numbers in words.

    Args:
        sentences: sentences whose parts make up the vocabulary.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self.texts = sorted({text for sentence in sentences for text in split_numeral(sentence)})
        self.tokens = {text: SPECIAL_TOKENS + n for n, text in enumerate(self.texts)}
        self.size = SPECIAL_TOKENS + len(self.texts)

    def encode(self, sentence: str) -> list[int]:
        """Return the tokens of a sentence."""
        return [self.tokens.get(text, UNKNOWN_TOKEN) for text in split_numeral(sentence)]

    def _join(self, tokens: list[int]) -> str:
        text = "".join(self.texts[token - SPECIAL_TOKENS] for token in tokens)
        return text.strip().replace("- ", "-")


class SubWords(Vocabulary):
    """Byte-pair encoding of both languages together, by SentencePiece.

    Args:
        files: text to learn from, one sentence per line.
        size: number of tokens.
    """

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.model = _sentencepiece(files, size)
        self.size = self.model.get_piece_size()

    def encode(self, sentence: str) -> list[int]:
        """Return the tokens of a sentence."""
        return list(self.model.encode(sentence))

    def _join(self, tokens: list[int]) -> str:
        return str(self.model.decode(tokens))


def _sentencepiece(files: Sequence[Path], size: int) -> Any:
    """Load the model beside the first file; learn it first where it is missing."""
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
            hard_vocab_limit=False,  # a small text has fewer tokens
            model_type="bpe",
            byte_fallback=True,  # rare letters are kept
            input_sentence_size=2_000_000,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNKNOWN_TOKEN,
            minloglevel=1,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def encode_pairs(
    vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]], max_tokens: int | None = None
) -> tuple[Tensor, Tensor, list[int]]:
    """Encode pairs of sentences as rows of tokens, padded with PAD.

    Args:
        vocabulary: vocabulary of both languages.
        pairs: source and target sentences.
        max_tokens: length of a sentence; pairs with a longer one are left out. None: no limit.

    Returns:
        Sources [count, s], each ending in EOS; targets [count, t], each between BOS and EOS; both
        int32; and the indices of the pairs.
    """
    sources, targets, indices = [], [], []
    for index, pair in enumerate(pairs):
        source, target = (vocabulary.encode(sentence) for sentence in pair)
        if max_tokens is None or max(len(source), len(target)) <= max_tokens:
            sources.append([*source, EOS])
            targets.append([BOS, *target, EOS])
            indices.append(index)
    return _padded(sources), _padded(targets), indices


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    parts = [torch.tensor(row, dtype=torch.int32) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=PAD)
