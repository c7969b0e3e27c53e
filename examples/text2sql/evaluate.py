"""Execution match: the share of questions whose answer, run on its database, returns the right rows.

Works on any sampling client of the API and any judge; all questions are in flight at once. Knows nothing of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.text2sql.clients import Sampler, Sdk
from examples.text2sql.judge import Verdict
from examples.text2sql.prompts import MAX_SQL_TOKENS, prompt_tokens, sql_of
from examples.text2sql.questions import Task, Tasks
from examples.text2sql.scoring import Judge, JudgeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GREEDY = 0.0


@dataclass(frozen=True)
class Matches:
    """Greedy execution match on held-out questions and, where there is one, on the held-out schema."""

    held_out: float
    unseen: float | None


def evaluate(
    sdk: Sdk, sampler: Sampler, tokenizer: "PreTrainedTokenizerBase", judge: Judge, tasks: Tasks
) -> Matches:
    """Both matches of one set of weights."""
    unseen = tasks.held_out_schema
    return Matches(
        execution_match(sdk, sampler, tokenizer, judge, tasks.held_out),
        execution_match(sdk, sampler, tokenizer, judge, unseen) if unseen else None,
    )


def execution_match(
    sdk: Sdk,
    sampler: Sampler,
    tokenizer: "PreTrainedTokenizerBase",
    judge: Judge,
    tasks: Sequence[Task],
    temperature: float = GREEDY,
    seed: int = 0,
) -> float:
    """Fraction of `tasks` answered right, one answer each; greedy unless a temperature is given.

    Answers on which the judge failed say nothing and are not counted. Raises JudgeError if there are no others.
    """
    futures = [
        sampler.sample(
            prompt=sdk.ModelInput.from_ints(prompt_tokens(tokenizer, task.schema, task.question)),
            num_samples=1,
            # A seed each: under a common one all questions would draw alike.
            sampling_params=sdk.SamplingParams(
                max_tokens=MAX_SQL_TOKENS, temperature=temperature, seed=seed + index
            ),
        )
        for index, task in enumerate(tasks)
    ]
    answers = [sql_of(tokenizer, future.result().sequences[0].tokens) for future in futures]
    scores = judge.score(list(zip(tasks, answers, strict=True))).result()
    right = [score == Verdict.RIGHT.value for score in scores if score is not None]
    if not right:
        raise JudgeError(f"the judge failed on all {len(scores)} answers")
    return sum(right) / len(right)
