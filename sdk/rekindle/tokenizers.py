"""Tokenizers of base models. The one place of the SDK that needs transformers, imported when it is asked for."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MISSING = "get_tokenizer() needs transformers, which the SDK does not install: pip install transformers"


@lru_cache(maxsize=16)
def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or hub id; a suffix after a colon is no part of it. Raises ImportError."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError(MISSING) from error
    source = name if Path(name).is_dir() else name.partition(":")[0]
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    return tokenizer
