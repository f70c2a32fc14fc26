"""Texts to tokens, and tokens to batches that waste little on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidemill.flavors.matrix import Array


@dataclass(frozen=True, kw_only=True)
class CallSize:
    """What one call of the network gets at most: `tokens`, padding included, bound its memory."""

    texts: int
    tokens: int


OF_CPU = CallSize(texts=32, tokens=16_384)
OF_GPU = CallSize(texts=256, tokens=32_768)

_ABSOLUTE_AFTER_PADDING = ("camembert", "roberta", "xlm-roberta", "xlm-roberta-xl", "longformer", "mpnet")
"""Their positions begin after that of padding, so that two of them or so cannot be used."""
_NO_LIMIT = 10**9
"""What a tokenizer has as its limit if nobody told it one is larger still."""

Encoded = tuple[Sequence[int], Sequence[int]]
"""Tokens of a text, and the segment that each belongs to."""


def length_limit(config: Any, tokenizer: Any, told: int | None) -> int:
    """How many tokens of a text the network takes: what sentence-transformers was told, else the least of what
    the network and the tokenizer say, else 512."""
    if told is not None:
        return told
    positions = getattr(config, "max_position_embeddings", None)
    limits = [limit for limit in (tokenizer.model_max_length, positions) if limit and limit < _NO_LIMIT]
    limit = min(limits, default=512)
    if config.model_type in _ABSOLUTE_AFTER_PADDING and positions:
        limit = min(limit, positions - (config.pad_token_id or 0) - 1)
    return int(limit)


class TextEncoder:
    """A tokenizer that is set up once: its settings must not change while several threads use it."""

    def __init__(self, tokenizer: Any, max_length: int, most: CallSize = OF_CPU) -> None:
        self._most = most
        self._tokens = tokenizer.backend_tokenizer
        self._tokens.no_padding()
        self._tokens.enable_truncation(max_length)
        self._pad = tokenizer.pad_token_id or 0
        self._segments = "token_type_ids" in tokenizer.model_input_names

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of each text, cut after the most that the network takes."""
        return [(each.ids, each.type_ids) for each in self._tokens.encode_batch(list(texts))]

    def batches(self, encoded: Sequence[Encoded]) -> Iterator[tuple[Array, dict[str, Array]]]:
        """(positions in `encoded`, inputs of the network) of texts of about one length, shortest first.

        What stands together depends on nothing but `encoded`: padding changes last bits.
        """
        lengths = np.array([len(ids) for ids, _ in encoded], np.int64)
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            stop = start + 1
            while (
                stop < len(order)
                and stop - start < self._most.texts
                and (stop + 1 - start) * lengths[order[stop]] <= self._most.tokens
            ):
                stop += 1
            yield order[start:stop], self._padded([encoded[position] for position in order[start:stop]])
            start = stop

    def _padded(self, encoded: Sequence[Encoded]) -> dict[str, Array]:
        longest = max(len(ids) for ids, _ in encoded) or 1
        tokens = np.full((len(encoded), longest), self._pad, np.int64)
        segments, mask = np.zeros_like(tokens), np.zeros_like(tokens)
        for row, (ids, kinds) in enumerate(encoded):
            tokens[row, : len(ids)], segments[row, : len(ids)], mask[row, : len(ids)] = ids, kinds, 1
        inputs = {"input_ids": tokens, "attention_mask": mask}
        return {**inputs, "token_type_ids": segments} if self._segments else inputs
