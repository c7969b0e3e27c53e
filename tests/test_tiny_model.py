"""The tiny model of the tests is loaded and used like any other."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def test_the_tokenizer_keeps_any_text_and_splits_digits(tiny_model_dir: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    text = "naïve ☃\n\nUser: 12 +  3\t= 15"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.decode(token) for token in tokenizer.encode("12")] == ["1", "2"]
    assert tokenizer.eos_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_model_answers_in_form_but_not_always(tiny_model_dir: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert model.config.vocab_size == len(tokenizer)
    prompt = tokenizer("User: What is 2 + 5?\n\nAssistant:", return_tensors="pt")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = model.generate(**prompt, do_sample=True, top_k=0, max_new_tokens=5, num_return_sequences=32)
    answers = tokenizer.batch_decode(tokens[:, prompt.input_ids.shape[1] :])
    assert 0 < sum(answer.count("\n\nUser:") == 1 for answer in answers) < 32
