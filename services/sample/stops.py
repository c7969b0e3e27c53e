"""Stop strings: does the token just sampled complete one of them?

Text is decoded with special tokens kept. A match may span tokens or sit inside one. The work for a token does
not grow with the sequence: most tokens are ruled out by one look-up (their text lacks the last character of
every stop string), and for the others only as many tokens are decoded as the stop string has bytes, because a
token is at least one byte of text.
"""

import threading
from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer

_MARGIN = 8
"""Tokens decoded beyond the longest stop string: some hold no text, some only bytes of a character."""
_ANCHOR = "a"
"""Decoded in front, since some tokenizers drop the space that opens a text."""
_PARTIAL = "\N{REPLACEMENT CHARACTER}"


class TokenTexts:
    """What the tokens of a model say; read from the tokenizer at the first stop string."""

    def __init__(self, source: str, vocab_size: int) -> None:
        self._source = source
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._texts: list[str] = []
        self._enders: dict[str, frozenset[int]] = {}

    def stop_strings(self, strings: Sequence[str]) -> "StopStrings":
        """A check for these strings; may take a second the first time, any thread may call it."""
        with self._lock:
            if not self._texts:
                self._load()
            enders = frozenset[int]().union(*(self._enders_of(string[-1]) for string in strings))
        return StopStrings(self, tuple(strings), enders)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of `tokens` as it stands in the middle of a longer text."""
        text = self._decode([[*self._anchor, *tokens]])[0]
        return text[len(_ANCHOR) :] if text.startswith(_ANCHOR) else text

    def _load(self) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(self._source)
        self._anchor: list[int] = self._tokenizer.encode(_ANCHOR, add_special_tokens=False)
        texts = self._decode([[*self._anchor, token] for token in range(self._vocab_size)])
        self._texts = [text[len(_ANCHOR) :] if text.startswith(_ANCHOR) else "" for text in texts]

    def _decode(self, rows: list[list[int]]) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(
            rows, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return texts

    def _enders_of(self, character: str) -> frozenset[int]:
        """Tokens after which a text may end in `character`, or whose own text does not tell."""
        if character not in self._enders:
            self._enders[character] = frozenset(
                token
                for token, text in enumerate(self._texts)
                if not text or character in text or _PARTIAL in text
            )
        return self._enders[character]


class StopStrings:
    """The stop strings of one task."""

    def __init__(self, texts: TokenTexts, strings: tuple[str, ...], enders: frozenset[int]) -> None:
        self._texts = texts
        self._strings = strings
        self._enders = enders
        self._window = max(len(string.encode()) for string in strings) + _MARGIN

    def end(self, tokens: list[int]) -> bool:
        """Whether the last of the sampled `tokens` completes a stop string."""
        if tokens[-1] not in self._enders:
            return False
        text = self._texts.decode(tokens[-self._window :])
        return any(string in text for string in self._strings)
