"""News for anyone: facts are published at least once, with an id that the same fact always has."""

from typing import Any

from cloudevents.core.v1.event import CloudEvent

from events import catalog, envelope, names
from events.bus import Bus
from events.retry import again_when_unavailable


def make_fact(
    type_: str, *, tenant: str, service: str, subject: str, id: str, data: dict[str, Any]
) -> CloudEvent:
    """A fact about `subject`; `id` derives from what caused it, so that subscribers can drop repeats."""
    assert catalog.BY_TYPE[type_].role == "fact", f"{type_} is not in the catalogue of facts"
    return envelope.make_event(
        type_, id=id, tenant=tenant, service=service, subject=subject, data=envelope.json_data(data)
    )


@again_when_unavailable
async def publish(bus: Bus, tenant: str, fact: CloudEvent) -> None:
    """Publish and wait until it is stored."""
    headers = {"Nats-Msg-Id": f"{fact.get_source()}#{fact.get_id()}"}
    await bus.append(names.fact_subject(tenant, fact.get_type()), fact, headers=headers)
