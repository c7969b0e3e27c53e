"""How a question becomes tokens, and tokens SQL: the same for base training, RL and evaluation.

A prompt is the schema, the question and a line break; the SQL follows and ends with the end-of-sequence token.
A tokenizer with a chat template gets the same text as a user's message.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_SQL_TOKENS = 128
INSTRUCTION = "Answer with one SQLite query and nothing else."

_FENCE = re.compile(r"```(?:sql|sqlite)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)


def prompt_text(schema: str, question: str) -> str:
    return f"{schema}\n{question}\n"


def prompt_tokens(tokenizer: "PreTrainedTokenizerBase", schema: str, question: str) -> list[int]:
    """Token ids of the prompt, with the chat template where the tokenizer has one."""
    text = prompt_text(schema, question)
    if tokenizer.chat_template is None:
        return list(tokenizer.encode(text, add_special_tokens=False))
    message = {"role": "user", "content": f"{text}{INSTRUCTION}"}
    templated = str(tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False))
    return list(tokenizer.encode(templated, add_special_tokens=False))


def sql_of(tokenizer: "PreTrainedTokenizerBase", tokens: list[int]) -> str:
    """The SQL in a completion: its text without special tokens and without a code fence."""
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    fenced = _FENCE.search(text)
    return (fenced.group(1) if fenced else text).strip()
