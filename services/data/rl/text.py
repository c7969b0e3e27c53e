"""Text to tokens and back, as transformers' `AutoTokenizer` does it, without transformers.

A tokenizer is what lies beside a model's weights: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`.
Promises: `encode`, `chat` and `decode` give what `AutoTokenizer` gives for a folder with these files. Templates come
with a model and run in a sandbox; the clock that they may read is the caller's, so that the same call means the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import ext, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, processors

from events import model_files
from events.failure import UserError

TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
MAPS = ("special_tokens_map.json", CONFIG)
"""Where the special tokens are named, the stronger last."""
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Message = dict[str, str]
"""`{"role": …, "content": …}`."""


@dataclass(frozen=True)
class Text:
    """The tokenizer of one model."""

    tokenizer: Tokenizer
    special: dict[str, str]
    """`bos_token` and others, as templates read them."""
    template: str | None
    """The chat template; None: the model has none."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain prompt, with the special tokens that the tokenizer puts around a text."""
        return list(self.tokenizer.encode(text).ids)

    def chat(self, messages: Sequence[Message], now: datetime) -> list[int]:
        """Token ids of a conversation up to where the assistant goes on. Raises UserError without a template."""
        if self.template is None:
            raise UserError("messages: the base model has no chat template; give `prompt` instead")
        try:
            text = (
                _environment(now)
                .from_string(self.template)
                .render(
                    messages=list(messages),
                    tools=None,
                    documents=None,
                    add_generation_prompt=True,
                    **self.special,
                )
            )
        except jinja2.TemplateError as error:
            raise UserError(f"messages: the chat template refuses them: {error}") from error
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a completion, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


@lru_cache(maxsize=8)
def load(source: str) -> Text:
    """The tokenizer of a model, by its source. Raises UserError where there is none of the fast kind."""
    folder = model_files.folder(source, model_files.TEXT)
    if not (folder / TOKENIZER).exists():
        raise UserError(f"base_model: {source!r} has no {TOKENIZER}")
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_truncation()
    config = _json(folder / CONFIG)
    special = _special_tokens(folder)
    known = tokenizer.get_added_tokens_decoder().values()
    missing = [token for token in special.values() if token not in {one.content for one in known}]
    tokenizer.add_tokens([AddedToken(token, special=True) for token in missing])
    if "add_bos_token" in config or "add_eos_token" in config or tokenizer.post_processor is None:
        _set_ends(tokenizer, special, config)
    return Text(tokenizer, special, _template(folder, config))


def _special_tokens(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in MAPS:
        values = _json(folder / file)
        for name in NAMED:
            token = values.get(name)
            if token is not None:
                found[name] = token["content"] if isinstance(token, dict) else token
    return found


def _set_ends(tokenizer: Tokenizer, special: dict[str, str], config: dict[str, Any]) -> None:
    """Begin and end texts as the configuration says, whatever the tokenizer's own file does."""
    first = special.get("bos_token") if config.get("add_bos_token") else None
    last = special.get("eos_token") if config.get("add_eos_token") else None
    used = [token for token in (first, last) if token is not None]
    single = " ".join(part for part in (first, "$A", last) if part is not None)
    ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(used)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B:1", special_tokens=ids
    )


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    if (path := folder / TEMPLATE).exists():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        return {one["name"]: one["template"] for one in found}.get("default")
    return found if isinstance(found, str) else None


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


class _Generation(ext.Extension):
    """`{% generation %}` marks what an assistant said, for training on it; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(now: datetime) -> ImmutableSandboxedEnvironment:
    """What templates may use, by the conventions of Hugging Face's chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = now.strftime
    return environment


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
