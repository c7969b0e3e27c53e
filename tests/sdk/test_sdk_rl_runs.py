"""`client.rl_runs` and `client.triggers`, against a server in the same process."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rekindle import ServiceClient
from rekindle.errors import BadRequest, InvalidField, MissingPackage, NotFound
from rekindle.exports import MAX_PARAMETER
from rekindle.types.rl import MetricsRow, RlRunSpec
from tests.sdk.rl_server import SPEC, RlServer, row

YAML = """\
base_model: tiny
dataset: {name: spider}
prompt: "{question}"
grader:
  type: numeric
  params:
    column: 7
steps: 4
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of these tests holds no polls."""
    monkeypatch.setattr("rekindle.rl_runs.SHORTEST_POLL", 0.0)


@pytest.fixture
def server() -> RlServer:
    return RlServer()


@pytest.fixture
def service(server: RlServer) -> Iterator[ServiceClient]:
    with server.service() as client:
        yield client


# ---- Runs ----


@pytest.mark.parametrize("kind", ["message", "mapping", "file"])
def test_a_run_is_started_by_a_message_values_or_a_file(
    server: RlServer, service: ServiceClient, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(SPEC))
    spec: Any = {"message": RlRunSpec.of(SPEC), "mapping": SPEC, "file": file}[kind]
    made = service.rl_runs.create(spec).result(10)
    assert (made.id, made.name, made.phase) == ("rl-0", "sql", "running")
    sent = json.loads(server.asked[0].content)
    assert sent == RlRunSpec.of(SPEC).model_dump(mode="json")
    assert sent["checkpoints"] is None and sent["alarms"]["gap"] is None, "a null is a value of its own"


def test_a_key_starts_one_run_and_calls_without_one_start_each_their_own(
    server: RlServer, service: ServiceClient
) -> None:
    ids = [service.rl_runs.create(SPEC, "k").result(10).id for _ in range(2)]
    ids += [service.rl_runs.create(SPEC).result(10).id for _ in range(2)]
    assert ids == ["rl-0", "rl-0", "rl-1", "rl-2"]


def test_a_mistake_in_a_spec_names_field_file_and_line(service: ServiceClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match=r"^steps: "):
        service.rl_runs.create({**SPEC, "steps": 0})
    (file := tmp_path / "run.yaml").write_text(YAML)
    with pytest.raises(InvalidField) as caught:
        service.rl_runs.create(file)
    assert caught.value.field.startswith(f"{file}:7: grader.") and "column" in caught.value.field
    file.write_text(YAML.replace("7", "x").replace("steps", "step"))
    with pytest.raises(InvalidField, match=r"run\.yaml:8: step: "):
        service.rl_runs.create(file)
    file.write_text("steps: [")
    with pytest.raises(InvalidField, match=r"run\.yaml: spec: not YAML: .*line 1"):
        service.rl_runs.create(file)
    with pytest.raises(FileNotFoundError):
        service.rl_runs.create(tmp_path / "none.yaml")


def test_what_the_server_lacks_comes_from_the_future(service: ServiceClient) -> None:
    with pytest.raises(BadRequest, match="base_model: 'none' is not served"):
        service.rl_runs.create({**SPEC, "base_model": "none"}).result(10)
    with pytest.raises(NotFound):
        service.rl_runs.get("../rl-0").result(10)


def test_a_run_is_listed_paused_resumed_cancelled_and_deleted(
    server: RlServer, service: ServiceClient
) -> None:
    id = service.rl_runs.create(SPEC).result(10).id
    runs = service.rl_runs
    assert [runs.pause(id).result(10).phase, runs.get(id).result(10).phase] == ["paused", "paused"]
    assert [runs.resume(id).result(10).phase, runs.cancel(id).result(10).phase] == ["running", "cancelled"]
    assert [one.id for one in runs.list().result(10)] == [id]
    assert runs.delete(id).result(10) is None
    assert runs.list().result(10) == []


def test_metrics_come_whole_over_all_pages(
    server: RlServer, service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rekindle.rl_runs.PAGE_ROWS", 3)
    id = server.begin(steps=20)
    server.runs[id] = server.runs[id].model_copy(update={"step": 10})
    assert [one.row for one in service.rl_runs.metrics(id).result(10)] == list(range(10))
    assert [one.row for one in service.rl_runs.metrics(id, after=6).result(10)] == [7, 8, 9]


def test_a_watch_gives_every_row_once_until_the_run_ends(server: RlServer, service: ServiceClient) -> None:
    id = server.begin()
    seen = list(service.rl_runs.watch(id))
    assert [one.row for _, rows in seen for one in rows] == [0, 1, 2, 3]
    assert [run.phase for run, _ in seen] == ["running"] * 3 + ["completed"]
    again = list(service.rl_runs.watch(id, after=1))
    assert [[one.row for one in rows] for _, rows in again] == [[2, 3]], "what has ended is one look"


async def test_a_watch_is_awaited_too_and_says_nothing_while_nothing_happens(
    server: RlServer, service: ServiceClient
) -> None:
    id, server.stands = server.begin(), 5
    seen = [(run.step, len(rows)) async for run, rows in service.rl_runs.watch(id)]
    assert seen == [(0, 0), (1, 1), (2, 1), (3, 1), (4, 1)] and server.stands == 0


# ---- Out ----


def test_metrics_are_written_as_csv(server: RlServer, service: ServiceClient, tmp_path: Path) -> None:
    id = server.begin()
    list(service.rl_runs.watch(id))
    path = service.rl_runs.to_csv(id, tmp_path / "run.csv").result(10)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == list(MetricsRow.model_fields)
    assert [(one["row"], one["reward"], one["kl_base"]) for one in found][:2] == [
        ("0", "0.0", ""),
        ("1", "0.25", ""),
    ]
    assert [one["evaluations"] for one in found][:2] == ["[[0, 0.5]]", "[]"]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_run_is_drawn_with_labelled_axes(
    server: RlServer, service: ServiceClient, tmp_path: Path, ending: str
) -> None:
    pytest.importorskip("matplotlib")
    id = server.begin(name="$cost & <sql>")
    list(service.rl_runs.watch(id))
    drawn = service.rl_runs.plot(id, tmp_path / f"run.{ending}").result(60).read_bytes()
    assert drawn.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    if ending == "svg":
        for said in ("reward", "KL (nats per token)", "staleness (steps)", "time (s)", "held out", "step"):
            assert f"<!-- {said} -->".encode() in drawn, said
        assert b"<!-- from the base model -->" not in drawn, "nothing is known of it"


def test_a_run_of_which_nothing_is_known_is_drawn_all_the_same(
    server: RlServer, service: ServiceClient, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    server.stands = 1
    assert service.rl_runs.plot(server.begin(), tmp_path / "run.png").result(60).exists()


def test_a_run_goes_to_weights_and_biases_by_its_package(
    server: RlServer, service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Any] = []

    class Logged:
        url = "https://wandb.test/run"

        def __init__(self, **options: Any) -> None:
            logged.append(options)

        def __enter__(self) -> "Logged":
            return self

        def __exit__(self, *_: object) -> None:
            logged.append("finished")

        def log(self, values: dict[str, float], step: int) -> None:
            logged.append((step, values))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=Logged))
    id = server.begin()
    list(service.rl_runs.watch(id))
    address = service.rl_runs.to_wandb(id, "sql", mode="offline").result(10)
    options, *steps, end = logged
    assert address == "https://wandb.test/run" and end == "finished"
    assert (options["project"], options["name"], options["tags"]) == ("sql", "sql", ["a", "b"])
    assert options["mode"] == "offline" and options["config"]["dataset"]["name"] == "spider"
    assert [step for step, _ in steps] == [0, 1, 2, 3]
    assert steps[2][1]["reward"] == 0.5 and steps[2][1]["evaluation"] == 0.5
    assert steps[2][1]["_timestamp"] == row(2).time.timestamp(), "when it happened, not when it was sent"
    assert all(isinstance(value, float) for _, values in steps for value in values.values())


def test_a_run_goes_to_mlflow_by_its_package(
    server: RlServer, service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, Any] = {"metrics": []}

    class Run:
        info = SimpleNamespace(run_id="m1")

        def __enter__(self) -> "Run":
            return self

        def __exit__(self, *_: object) -> None:
            said["ended"] = True

    def start_run(**options: Any) -> Run:
        said["run"] = options
        return Run()

    package = SimpleNamespace(
        set_experiment=lambda name: said.update(experiment=name),
        start_run=start_run,
        log_params=lambda params: said.update(params=params),
        log_metrics=lambda values, step, timestamp: said["metrics"].append(
            (step, values["reward"], timestamp / 1000)
        ),
    )
    monkeypatch.setitem(sys.modules, "mlflow", package)
    id = server.begin(prompt="{question}" + "x" * 2 * MAX_PARAMETER)
    list(service.rl_runs.watch(id))
    assert service.rl_runs.to_mlflow(id, "sql").result(10) == "m1"
    assert said["experiment"] == "sql" and said["ended"]
    assert said["run"] == {"run_name": "sql", "tags": {"rl_run": id, "tags": "a,b"}}
    assert said["params"]["sampling.max_tokens"] == "256" and len(said["params"]["prompt"]) == MAX_PARAMETER
    assert said["metrics"] == [(n, 0.25 * n, row(n).time.timestamp()) for n in range(4)]


def test_a_package_that_is_not_there_is_named(
    server: RlServer, service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackage, match=r"rekindle\[wandb\]"):
        service.rl_runs.to_wandb(server.begin(), "sql").result(10)


# ---- Triggers ----


def test_a_trigger_is_made_listed_and_deleted(
    server: RlServer, service: ServiceClient, tmp_path: Path
) -> None:
    (file := tmp_path / "run.yaml").write_text(
        json.dumps({**SPEC, "dataset": {"name": "${event.name}", "version": "${event.version}"}})
    )
    made = service.triggers.create("sql", "dataset.uploaded", match={"name": "sql/*"}, start=file).result(10)
    assert made.trigger.start is not None and made.trigger.start["checkpoints"] is None
    assert made.trigger.spec_for({"name": "sql/a", "version": 2}).dataset.version == 2
    assert service.triggers.list().result(10) == [made] == [service.triggers.get("sql").result(10)]
    assert service.triggers.firings("sql").result(10) == []
    service.triggers.delete("sql").result(10)
    with pytest.raises(NotFound):
        service.triggers.firings("sql").result(10)


def test_a_mistake_in_a_trigger_is_told_at_its_place(service: ServiceClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match=r"^on: "):
        service.triggers.create("sql", "uploaded", webhook="https://x.test/")
    with pytest.raises(InvalidField, match="expected either start or webhook"):
        service.triggers.create("sql", "dataset.uploaded")
    (file := tmp_path / "run.yaml").write_text(YAML.replace("7", "x").replace("steps: 4", "steps: 0"))
    with pytest.raises(InvalidField, match=r"run\.yaml:8: steps: "):
        service.triggers.create("sql", "dataset.uploaded", start=file)


def test_a_row_of_the_fake_server_is_a_row() -> None:
    assert MetricsRow.model_validate_json(row(2).model_dump_json()) == row(2)
