"""The saved adapter without the service: plain transformers and PEFT must reproduce the final figure.

`python -m examples.text2sql.verify` reads `result.json` and `adapter/` of a run, answers the held-out questions
greedily with `generate`, and ends with status 1 if the match is more than a point away from the run's own.
"""

# transformers annotates loosely
# mypy: disable-error-code="no-untyped-call"

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from examples.text2sql.experiment import CACHE, Options, prepare
from examples.text2sql.judge import Verdict, judge
from examples.text2sql.prompts import MAX_SQL_TOKENS, prompt_tokens, sql_of
from examples.text2sql.questions import Task

TOLERANCE = 0.01
BATCH = 64


def adapter_match(base: Path, adapter: Path, tasks: Sequence[Task]) -> float:
    """Greedy execution match of a base model in `base` with the PEFT adapter in `adapter`, float32."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    base_model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base_model, adapter)
    model.eval()
    right = 0
    for start in range(0, len(tasks), BATCH):
        chosen = tasks[start : start + BATCH]
        answers = _generate(model, tokenizer, chosen)
        right += sum(
            judge(sql, task.database, task.reference) is Verdict.RIGHT
            for sql, task in zip(answers, chosen, strict=True)
        )
    return right / len(tasks)


def _generate(model: PeftModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task]) -> list[str]:
    """Greedy answers; prompts are padded on the left, where the mask hides the padding."""
    prompts = [prompt_tokens(tokenizer, task.schema, task.question) for task in tasks]
    width = max(map(len, prompts))
    tokens_BT = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask_BT = torch.zeros_like(tokens_BT)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, width - len(prompt) :] = 1
    with torch.no_grad():
        answers_BT = model.generate(
            input_ids=tokens_BT, attention_mask=mask_BT, max_new_tokens=MAX_SQL_TOKENS, do_sample=False
        )
    return [sql_of(tokenizer, answer_T[width:].tolist()) for answer_T in answers_BT]


def main() -> int:
    """Compare the run in `--out` with what its adapter does here."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Options().out)
    parser.add_argument(
        "--base-model", type=Path, help="folder of the base model, where it is not the demo's"
    )
    parser.add_argument("--cache", type=Path, default=CACHE)
    given = parser.parse_args()
    result = json.loads((given.out / "result.json").read_text(encoding="utf-8"))
    own = None if given.base_model is None else str(given.base_model)
    experiment = prepare(replace(Options(), seed=result["seed"], cache=given.cache, base_model=own))
    base = given.base_model or Path(experiment.served.partition("=")[2])
    match = adapter_match(base, given.out / "adapter", experiment.tasks.held_out)
    print(f"held-out match: {result['after']:.4f} through the API, {match:.4f} with transformers and PEFT")
    return 0 if abs(match - result["after"]) <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
