"""Text becomes the tokens that transformers' own tokenizer makes of it, and comes back the same."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from events.failure import UserError
from services.data.rl import text
from tests.tiny_model import make_tokenizer

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TEXTS = [
    "User: What is 3 + 4?\n\nAssistant:",
    "",
    "  two  spaces ,\tügly Zeichen 漢字 🙂\n",
    "<|end|> in the middle <s> and </s>",
]
TEMPLATE = """{{ bos_token }}{% for message in messages %}
{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}
    {% if loop.index > 8 %}{% break %}{% endif %}
<|{{ message['role'] }}|>{% generation %}{{ message['content'] | trim }}{% endgeneration %}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{{ {'a': '<é>'} | tojson }}{% endif %}"""
MESSAGES = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "<b>What is 3 + 4?</b> & so on"},
]


def with_ends(**options: object) -> PreTrainedTokenizerFast:
    """A tokenizer with `<s>` and `</s>`, one of which its own file puts before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **options
    )


def saved(tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[text.Text, PreTrainedTokenizerBase]:
    tokenizer.save_pretrained(folder)
    return text.load(str(folder)), AutoTokenizer.from_pretrained(folder)


TOKENIZERS = {
    "tiny": make_tokenizer,
    "ends": with_ends,
    "begins_and_ends": lambda: with_ends(add_bos_token=True, add_eos_token=True),
    "neither": lambda: with_ends(add_bos_token=False, add_eos_token=False),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("said", TEXTS)
def test_a_text_has_the_tokens_that_transformers_gives_it(kind: str, said: str, tmp_path: Path):
    ours, theirs = saved(TOKENIZERS[kind](), tmp_path / kind)
    tokens = theirs.encode(said)
    assert ours.encode(said) == tokens
    assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["tiny", "ends"])
@pytest.mark.parametrize("place", ["file", "config", "named"])
def test_a_conversation_has_the_tokens_that_transformers_gives_it(kind: str, place: str, tmp_path: Path):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    if place != "file":
        (tmp_path / text.TEMPLATE).unlink()
        config = json.loads((tmp_path / text.CONFIG).read_text())
        named = [{"name": "default", "template": TEMPLATE}, {"name": "rag", "template": "x"}]
        config["chat_template"] = TEMPLATE if place == "config" else named
        (tmp_path / text.CONFIG).write_text(json.dumps(config))
    ours, theirs = text.load(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert ours.chat(MESSAGES, NOW) == expected
    assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=True)


def test_the_base_model_of_the_example_reads_as_transformers_reads_it(tmp_path: Path):
    from examples.text2sql.base_model import train_tokenizer
    from examples.text2sql.prompts import prompt_text
    from examples.text2sql.questions import Pair

    schema, question, sql = "CREATE TABLE t (a INTEGER)", "How many rows has t?", "SELECT count(*) FROM t"
    pairs = [Pair(schema=schema, question=question, sql=sql)]
    ours, theirs = saved(train_tokenizer(pairs, 300), tmp_path)
    prompt = prompt_text(schema, question)
    assert ours.encode(prompt) == theirs.encode(prompt, add_special_tokens=False)
    answer = [*theirs.encode(sql, add_special_tokens=False), theirs.eos_token_id]
    assert ours.decode(answer) == theirs.decode(answer, skip_special_tokens=True) == sql


def test_what_a_template_refuses_is_the_callers_mistake(tmp_path: Path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    ours, _ = saved(tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"^messages: .*no tools here"):
        ours.chat([{"role": "tool", "content": "x"}], NOW)


def test_a_template_reads_the_clock_that_it_is_given(tmp_path: Path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d.%m.%Y') }}"
    ours, _ = saved(tokenizer, tmp_path)
    assert ours.decode(ours.chat(MESSAGES, NOW)) == "02.01.2026"


def test_a_template_cannot_leave_its_sandbox(tmp_path: Path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    ours, _ = saved(tokenizer, tmp_path)
    with pytest.raises(UserError, match="unsafe"):
        ours.chat(MESSAGES, NOW)


def test_messages_need_a_chat_template(tmp_path: Path):
    ours, _ = saved(make_tokenizer(), tmp_path)
    with pytest.raises(UserError, match=r"^messages: .* no chat template; give `prompt`"):
        ours.chat(MESSAGES, NOW)
