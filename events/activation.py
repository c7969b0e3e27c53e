"""An activation as an event: a request that stays open while a replica works, and is open no longer than that.

`dev.rekindle.<service>.activate`, data `{"deadline": <ISO time>}`, POSTed by the CloudEvents HTTP binding to a
service's `/activate`. Platforms that scale on open requests see a busy replica as such, though its work comes
from NATS.
"""

from datetime import datetime

from cloudevents.core.bindings.http import HTTPMessage, to_binary_event
from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel, ConfigDict

from events import catalog, envelope
from rekindle.types.keys import EVERYONE

PATH = "/activate"
DEADLINE_SECONDS = 270.0
"""Below the 300 s that Knative grants a request, the start of the replica included."""


class Activation(BaseModel):
    """Data of the event. Example: Activation(deadline="2026-01-01T00:04:30Z")."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    deadline: datetime
    """When the request ends though there may be work left."""


def activation_event(service: str, kind: str, id: str, deadline: datetime) -> CloudEvent:
    """`service` is the exact name of the service, `kind` its folder."""
    return envelope.make_event(
        catalog.ACTIVATE.replace("<service>", kind),
        id=id,
        tenant=EVERYONE,
        service="dispatcher",
        subject=service,
        data=Activation(deadline=deadline).model_dump_json().encode(),
    )


def to_http(event: CloudEvent) -> HTTPMessage:
    """The event in binary mode."""
    return to_binary_event(event)
