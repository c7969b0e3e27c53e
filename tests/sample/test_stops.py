"""Stop strings on real text: characters of several bytes, special tokens, spaces in front."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rekindle.types.errors import InvalidField
from services.sample.engine import StopRule
from services.sample.stops import TokenTexts


@pytest.fixture(scope="module")
def texts(tiny_model_dir: Path) -> TokenTexts:
    return TokenTexts(str(tiny_model_dir), len(AutoTokenizer.from_pretrained(tiny_model_dir)))


@pytest.mark.parametrize(
    "string", ["☃", "ï", "é☃", "☃\n\nUser", "<|end|>", " of", "r", "12", "\n\n", "xyz ☃☃"]
)
def test_a_string_ends_where_the_decoded_text_first_holds_it(texts: TokenTexts, tiny_model_dir, string):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    text = "A naïve é☃\n\nUser: what is 12 of 3?<|end|> Then xyz ☃☃ and more, for a long while after it"
    tokens = tokenizer.encode(text)
    stop = texts.stop_strings(["never", string])
    first = next(n for n in range(1, len(tokens) + 1) if string in tokenizer.decode(tokens[:n]))
    ends = [n for n in range(1, len(tokens) + 1) if stop.end(tokens[:n])]
    assert ends[0] == first


def test_most_tokens_are_ruled_out_without_decoding(texts: TokenTexts, monkeypatch):
    stop = texts.stop_strings(["\n\n"])
    decoded = []
    monkeypatch.setattr(texts, "decode", lambda tokens: decoded.append(len(tokens)) or "")
    for token in range(512):
        stop.end([5] * 400 + [token])
    # Half of the 256 single bytes are no characters alone, and any of them might belong to one.
    assert 0 < len(decoded) < 200
    assert max(decoded) < 20


def test_the_wire_forms_of_stop_are_told_apart():
    assert StopRule.parse(None) == StopRule(eos=True)
    assert StopRule.parse([]) == StopRule(eos=False)
    assert StopRule.parse("x") == StopRule(eos=True, strings=("x",))
    assert StopRule.parse(["x", "yz"]) == StopRule(eos=True, strings=("x", "yz"))
    assert StopRule.parse([3, 4]) == StopRule(eos=True, tokens=frozenset({3, 4}))
    with pytest.raises(InvalidField, match="stop"):
        StopRule.parse(["x", ""])
