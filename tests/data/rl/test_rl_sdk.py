"""The SDK's RL runs and triggers agree with the server."""

import httpx
import pytest

from rekindle import ServiceClient
from rekindle.errors import BadRequest, NotFound
from rekindle.types.rl import RlRunSpec
from tests.data.lab import Lab
from tests.data.rl.test_rl_api import dataset, spec

__all__ = ["dataset"]


@pytest.fixture
def service(lab: Lab) -> ServiceClient:
    return ServiceClient(lab.gateway.url.removesuffix("/api/v1"))


def test_a_run_is_started_steered_and_deleted_by_the_sdk(service: ServiceClient, dataset: str) -> None:
    with service:
        runs = service.rl_runs
        made = runs.create(spec(dataset, checkpoints=None, name="by the SDK"), "a key of its own").result(30)
        again = runs.create(RlRunSpec.of(spec(dataset, name="by the SDK")), "a key of its own").result(30)
        assert (again.id, again.spec) == (made.id, made.spec)
        assert (made.name, made.dataset_version, made.trigger) == ("by the SDK", 1, None)
        assert made.id in [one.id for one in runs.list().result(30)]
        for steer in (runs.pause, runs.resume, runs.cancel):
            assert steer(made.id).result(30).id == made.id
        assert runs.metrics(made.id).result(30) == []
        *_, (last, rows) = runs.watch(made.id)
        assert (last.phase, rows) == ("cancelled", ())
        assert runs.delete(made.id).result(30) is None
        with pytest.raises(BadRequest, match=r"dataset\.name"):
            runs.create(spec("nowhere")).result(30)
        with pytest.raises(NotFound):
            runs.get(made.id).result(30)


def test_a_null_in_a_spec_is_a_value_of_its_own_at_the_server_too(
    service: ServiceClient, dataset: str
) -> None:
    with service:
        wanted = RlRunSpec.of({**spec(dataset), "checkpoints": None, "alarms": {"gap": None}})
        made = service.rl_runs.create(wanted).result(30)
        assert made.spec.checkpoints is None and made.spec.alarms.gap is None
        service.rl_runs.delete(made.id).result(30)


def test_a_trigger_is_made_and_deleted_by_the_sdk(service: ServiceClient, dataset: str) -> None:
    with service:
        start = {**spec("x"), "dataset": {"name": "${event.name}"}, "checkpoints": None}
        made = service.triggers.create(
            "by-sdk", "dataset.uploaded", match={"version": 2}, start=start
        ).result(30)
        assert made.trigger.start is not None and made.trigger.start["checkpoints"] is None
        assert made in service.triggers.list().result(30)
        assert service.triggers.get("by-sdk").result(30).fired == 0
        assert service.triggers.firings("by-sdk").result(30) == []
        with pytest.raises(BadRequest, match=r"on: 'dataset\.burnt' is no fact"):
            service.triggers.create("other", "dataset.burnt", webhook="https://x.test/").result(30)
        service.triggers.delete("by-sdk").result(30)
        with pytest.raises(NotFound):
            service.triggers.delete("by-sdk").result(30)


def test_the_schema_of_a_spec_is_served(lab: Lab) -> None:
    found = httpx.get(f"{lab.gateway.url}/schemas/rl_run", trust_env=False).json()
    assert found == RlRunSpec.model_json_schema()
