"""The sampling service builds the engine that its settings name."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.sample.app import open_engine
from services.sample.settings import SampleSettings
from services.sample.torch_engine import TorchEngine

ROOT = Path(__file__).resolve().parents[2]


def settings(source: Path | str = "somewhere", **fields) -> SampleSettings:
    needed = {
        "NATS_URL": "nats://127.0.0.1:1",
        "blobs": "/nowhere",
        "base_name": "m",
        "base_source": str(source),
    }
    return SampleSettings(**{**needed, **fields})


def test_vllm_refuses_to_be_deterministic():
    assert settings(engine="torch", deterministic=True).deterministic
    with pytest.raises(ValidationError, match="deterministic: the vllm engine cannot promise it"):
        settings(engine="vllm", deterministic=True)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValidationError, match="engine"):
        settings(engine="sglang")


@pytest.mark.parametrize("deterministic", [False, True])
async def test_the_torch_engine_gets_its_settings(tiny_model_dir: Path, monkeypatch, deterministic: bool):
    given: dict[str, object] = {}

    class Recorded(TorchEngine):
        def __init__(self, *args, **options) -> None:
            given.update(options)
            super().__init__(*args, **options)

    monkeypatch.setattr("services.sample.torch_engine.TorchEngine", Recorded)
    engine = await open_engine(
        settings(tiny_model_dir, deterministic=deterministic, max_adapters=3, threads=1)
    )
    await engine.close()
    assert given == {"deterministic": deterministic, "max_adapters": 3, "threads": 1}


def test_the_service_comes_up_without_either_engine():
    code = "import sys, services.sample.app; print(sorted({'torch', 'vllm'} & sys.modules.keys()))"
    path = f"{ROOT}:{ROOT / 'sdk'}"
    outcome = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=60
    )
    assert outcome.stdout == "[]\n", outcome.stderr
