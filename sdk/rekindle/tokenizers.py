"""Tokenizers of base models. The one place of the SDK that needs transformers, imported when it is asked for."""

from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

MISSING = "get_tokenizer() needs transformers, which the SDK does not install: pip install transformers"


class Tokenizer(Protocol):
    """What loops use of a `transformers.PreTrainedTokenizerBase`, which is what they get."""

    eos_token_id: int | None
    chat_template: str | None

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Token ids of a text."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> str:
        """The text of token ids."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """A conversation as text or token ids, as the options say."""


@lru_cache(maxsize=16)
def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a folder or hub id; a suffix after a colon is no part of it. Raises ImportError."""
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise ImportError(MISSING) from error
    source = name if Path(name).is_dir() else name.partition(":")[0]
    tokenizer: Tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    return tokenizer
