"""A sandbox that is made beside the service, and what those hear who wait for one that cannot be made."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest

from rekindle.types.rewards import SandboxInfo
from services.reward.code.place import Opening, open_place
from services.reward.guests.function import CALL
from services.reward.sandbox import Limits, Sandbox, SandboxError, bubblewrap, warm


async def refused() -> tuple[str, list[SandboxInfo]]:
    """What a guest hears, and what the world is told."""
    told: list[SandboxInfo] = []

    async def tell(found: SandboxInfo) -> None:
        told.append(found)

    async with open_place("confined", tell) as place:
        assert isinstance(place, Opening)
        with pytest.raises(SandboxError) as heard:
            await place.run(CALL, b"", limits=Limits())
    return str(heard.value), told


async def test_a_machine_without_a_folder_for_guests_runs_no_code_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    heard, (told,) = await refused()
    assert heard.startswith("this server runs no code: ") and "/proc/nowhere" in heard
    assert told.refused is not None and told.refused in heard and told.layers == ()


async def test_an_interpreter_that_is_not_warm_in_time_is_the_sandboxs_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warm, "WARM_SECONDS", 0.0)
    heard, (told,) = await refused()
    assert "not warm within 0 s" in heard and told.refused is not None
    with pytest.raises(SandboxError, match="not warm"):
        async with Sandbox():
            raise AssertionError("it was entered")


def test_a_bubblewrap_that_hangs_or_does_not_start_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bwrap"
    monkeypatch.setattr(shutil, "which", lambda _: str(program))
    assert bubblewrap.command(str(tmp_path), []) == []
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "TRY_SECONDS", 0.1)
    assert bubblewrap.command(str(tmp_path), []) == []


async def test_a_service_that_ends_while_its_sandbox_is_made_leaves_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("guests")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    async def tell(_: SandboxInfo) -> None:
        raise AssertionError("it was made")

    begun, start = asyncio.Event(), warm.Warm.start

    async def started(*given: object) -> warm.Warm:
        begun.set()
        return await start(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(warm.Warm, "start", started)
    async with open_place("confined", tell):
        await asyncio.wait_for(begun.wait(), 10)
    assert begun.is_set() and list(folder.iterdir()) == []
