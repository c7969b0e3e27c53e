"""Lists of runs and checkpoints, fetched a page at a time."""

import httpx
import pytest

from rekindle import ServiceClient
from rekindle.types import MAX_PAGE
from tests.sdk.fake_server import FakeServer

KEPT = MAX_PAGE + 7
TIME = "2026-01-31T00:00:00Z"


def run(number: int) -> dict[str, object]:
    return {
        "training_run_id": f"s{number}:train:0",
        "base_model": "base",
        "model_owner": "me",
        "is_lora": True,
        "last_request_time": TIME,
    }


@pytest.mark.parametrize(
    ("limit", "offset", "expected"),
    [
        (None, 0, range(KEPT)),
        (MAX_PAGE + 2, 0, range(MAX_PAGE + 2)),
        (3, 5, range(5, 8)),
        (20, KEPT - 2, range(KEPT - 2, KEPT)),
        (0, 0, range(0)),
    ],
)
def test_runs_are_listed_over_all_pages(
    fake: FakeServer, faked: ServiceClient, limit: int | None, offset: int, expected: range
) -> None:
    def page(request: httpx.Request) -> httpx.Response:
        first, most = int(request.url.params["offset"]), int(request.url.params["limit"])
        assert most <= MAX_PAGE
        runs = [run(number) for number in range(KEPT)][first : first + most]
        return httpx.Response(
            200, json={"training_runs": runs, "cursor": {"limit": most, "offset": first, "total_count": KEPT}}
        )

    fake.trouble["/training_runs"] = page
    found = faked.runs.list(limit, offset).result(10)
    assert [one.training_run_id for one in found] == [f"s{number}:train:0" for number in expected]
