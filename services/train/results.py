"""Results of training commands and the facts that go with them: pure functions, nothing is written here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from cloudevents.core.v1.event import CloudEvent

from events import catalog, envelope, facts, ids
from events.failure import Failure, ServerError, UserError
from events.order import Entry
from rekindle.types import encode_forward_backward_output
from services.train.engine import NonFiniteResult, PassResult, PassWork, WorkError
from services.train.held import HeldRun


@dataclass(frozen=True, slots=True)
class Done:
    """What a command came to."""

    data: bytes
    content_type: str = envelope.JSON
    facts: tuple[CloudEvent, ...] = ()


def result_event(run: HeldRun, entry: Entry, done: Done | Failure) -> CloudEvent:
    """The record that resolves the command's future."""
    failed = isinstance(done, Failure)
    return envelope.make_event(
        catalog.FAILED if failed else catalog.RESOLVED,
        id=ids.future_id(run.run_id, entry.number),
        tenant=run.tenant,
        service="train",
        subject=run.run_id,
        data=done.model_dump_json().encode() if isinstance(done, Failure) else done.data,
        content_type=envelope.JSON if isinstance(done, Failure) else done.content_type,
    )


def fact_of(run: HeldRun, number: int, type_: str, data: dict[str, Any]) -> CloudEvent:
    """A fact that the command of that number caused."""
    return facts.make_fact(
        type_,
        tenant=run.tenant,
        service="train",
        subject=run.run_id,
        id=f"{ids.future_id(run.run_id, number)}:{type_}",
        data=data,
    )


def failure_of(error: WorkError) -> Failure:
    """Overflow comes from the caller's numbers, lack of memory from ours."""
    kind = UserError if isinstance(error, NonFiniteResult) else ServerError
    return kind(str(error)).failure


def passed(run: HeldRun, entry: Entry, work: PassWork, result: PassResult) -> Done:
    """What a forward-backward command came to."""
    news = {
        "number": entry.number,
        "datums": len(work.data),
        "tokens": sum(len(datum.tokens) for datum in work.data),
        "loss": result.metrics["loss:sum"],
        "forward_only": work.forward_only,
    }
    extra = extra_outputs(result)
    data = encode_forward_backward_output(result.logprobs, result.metrics, work.loss_fn, extra)
    return Done(data, envelope.PROTOBUF, (fact_of(run, entry.number, catalog.BATCH_TRAINED, news),))


def extra_outputs(result: PassResult) -> dict[str, list[np.ndarray]]:
    """What a client gets beside logprobs where it asks for it: by name, an array (N,) per datum."""
    return {
        name: [spread_N_2[:, column] for spread_N_2 in result.spreads]
        for column, name in enumerate(("entropy", "entropy_variance"))
        if result.spreads
    }
