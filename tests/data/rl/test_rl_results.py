"""What was read of a run's results is kept in memory for a while, in little of it however long completions are."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from events.futures import Result
from rekindle.types import SampledSequence, encode_sample_response
from services.data.rl import results
from services.data.rl.results import Results
from tests.data.rl.rl_world import make_run

TOKENS = 1000


async def test_results_are_kept_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.arange(TOKENS, dtype=np.int32)
    wire = encode_sample_response([SampledSequence(tokens, np.zeros(TOKENS, np.float32), "length")])
    monkeypatch.setattr(results, "KEPT_BYTES", 3 * len(wire))
    read: Counter[str] = Counter()

    async def wait(tenant: str, future: str, seconds: float) -> Result:
        read[future] += 1
        return Result("", wire * (4 if future == "huge" else 1))

    edge: Any = SimpleNamespace(futures=SimpleNamespace(wait=wait))
    found = Results(edge, "local", make_run())
    for future in ("a", "b", "c", "a", "d", "a", "b", "huge", "huge"):
        assert (await found.sampled(future)).sequences[0].tokens.tolist() == tokens.tolist()
    # b had to make room for d, and what is larger than all the room is not kept
    assert read == {"a": 1, "b": 2, "c": 1, "d": 1, "huge": 2}
