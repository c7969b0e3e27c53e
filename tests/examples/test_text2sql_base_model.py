"""The base model on a small scale: recipe, tokenizer, loss, and the cache that keeps all of it together."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from examples.text2sql import base_model
from examples.text2sql.base_model import IGNORED, BaseModel, Recipe
from examples.text2sql.questions import make_databases

SMALL = Recipe(seed=3, corpus_size=200, steps=8, batch=8, hidden=32, layers=1, head_dim=16, feed_forward=48)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    cache = tmp_path_factory.mktemp("cache")
    return base_model.make_base_model(SMALL, make_databases(cache / "databases", SMALL.seed), cache)


def test_any_change_of_the_recipe_makes_another_model():
    digests = {recipe.digest for recipe in (SMALL, replace(SMALL, seed=4), replace(SMALL, steps=9))}
    assert len(digests) == 3
    assert SMALL.digest == replace(SMALL).digest


def test_a_model_in_the_cache_is_not_made_again(made: BaseModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base_model, "train_model", lambda *_: pytest.fail("trained again"))
    databases = make_databases(made.folder.parent / "databases", SMALL.seed)
    assert base_model.make_base_model(SMALL, databases, made.folder.parent) == made
    assert made.seconds > 0


def test_nothing_unfinished_stays_in_the_cache(made: BaseModel):
    assert {path.name for path in made.folder.parent.iterdir()} == {"databases", made.folder.name}


def test_weights_are_safetensors_and_a_server_learns_where_to_stop(made: BaseModel):
    names = {path.name for path in made.folder.iterdir()}
    assert "model.safetensors" in names and not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    assert GenerationConfig.from_pretrained(made.folder).eos_token_id == tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_pretrained(made.folder)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)


def test_digits_are_tokens_of_their_own_and_text_survives(made: BaseModel):
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    text = "SELECT pages FROM books WHERE pages > 2350 -- ünïcode\n"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(tokens) == text
    digits = [
        token for token in map(tokenizer.decode, tokens) if any(character.isdigit() for character in token)
    ]
    assert digits == ["2", "3", "5", "0"]


def test_the_loss_is_that_of_the_sql_alone(made: BaseModel):
    model = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32)
    tokens_BT, labels_BT = base_model._pad([([5, 6, 7], [8, 9]), ([5, 6], [7])], pad=1)
    assert tokens_BT.tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 1, 1]]
    assert labels_BT.tolist() == [[IGNORED] * 3 + [8, 9], [IGNORED] * 2 + [7] + [IGNORED] * 2]
    mask_BT = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    with torch.no_grad():
        expected = model(input_ids=tokens_BT, attention_mask=mask_BT, labels=labels_BT).loss
        torch.testing.assert_close(base_model.sql_loss(model, tokens_BT, labels_BT), expected)


def test_batches_come_in_the_number_and_size_of_the_recipe():
    rows = [([1] * length, [2]) for length in range(1, 41)]
    made = list(base_model.batches(SMALL, rows, pad=0))
    assert len(made) == SMALL.steps
    assert all(
        tokens_BT.shape == labels_BT.shape and len(tokens_BT) == SMALL.batch for tokens_BT, labels_BT in made
    )


def test_the_learning_rate_rises_and_falls_to_zero():
    recipe = Recipe(seed=0, steps=100, warmup_steps=10)
    rates = [base_model._schedule(recipe, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == rates[10] == 1.0 and rates[100] == 0.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
