"""Secrets of the person who starts the stack reach the reward service, and nothing else."""

import json
import os
from pathlib import Path

import pytest

from rekindle.types.keys import key_digest
from services.local.process import Child, Inherited, spawn
from services.local.stack import BaseModelChoice, StackOptions, children, listen


def environments(tmp_path: Path, host: str) -> dict[str, dict[str, str]]:
    """Of all processes, by service."""
    with listen("127.0.0.1", 0) as held:
        found = children(StackOptions([BaseModelChoice("m", "/m")], tmp_path, host, held, api_keys=["k"]))
        for child in found:
            if child.listening is not None and child.listening is not held:
                child.listening.close()
    return {child.service: child.environment for child in found}


def test_keys_are_given_to_the_reward_service_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REKINDLE_KEY_OPENAI", "sk-1")
    found = environments(tmp_path, "127.0.0.1")
    assert [service for service, told in found.items() if "sk-1" in str(told)] == ["reward"]
    assert found["reward"]["REKINDLE_KEY_OPENAI"] == "sk-1"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_graders_may_ask_this_machine_only_where_nobody_else_is_served(tmp_path: Path, host: str) -> None:
    reward = environments(tmp_path, host)["reward"]
    alone = host == "127.0.0.1"
    assert ("REKINDLE_OUTSIDE_HOSTS" in reward) == ("REKINDLE_OUTSIDE_KEY_HOSTS" in reward) == alone
    assert not alone or "127.0.0.0/8" in json.loads(reward["REKINDLE_OUTSIDE_HOSTS"])


def test_the_dispatchers_key_opens_no_route_of_a_tenants(tmp_path: Path) -> None:
    found = environments(tmp_path, "127.0.0.1")
    activation = key_digest(found["dispatcher"]["REKINDLE_ACTIVATION_KEY"])
    for service in ("train", "sample", "checkpoint", "data", "reward"):
        assert json.loads(found[service]["REKINDLE_SYSTEM_KEYS"]) == [activation]
        assert json.loads(found[service]["REKINDLE_API_KEYS"]) == [key_digest("k")]
    assert json.loads(found["gateway"]["REKINDLE_API_KEYS"]) == [key_digest("k")]
    assert activation not in str(found["gateway"])


async def test_a_child_inherits_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REKINDLE_KEY_OPENAI", "sk-1")
    log = tmp_path / "log"
    with log.open("wb") as file:
        child = Child("x", ["env"], log, environment={"GIVEN": "yes"})
        process = await spawn(child, Inherited(listening=None, log=file.fileno(), notify=None))
        assert await process.wait() == 0
    said = log.read_text()
    assert "GIVEN=yes" in said and f"PATH={os.environ['PATH']}" in said and "sk-1" not in said
