"""Who is served without keys."""

import pytest
from pydantic import ValidationError

from events.settings import EdgeSettings

BUS = {"nats_url": "nats://127.0.0.1:4222", "blobs": "blobs"}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert EdgeSettings(**BUS, host=host).api_keys == []


def test_any_other_address_needs_a_key() -> None:
    with pytest.raises(ValidationError, match=r"api_keys must name at least one"):
        EdgeSettings(**BUS, host="0.0.0.0")
    assert EdgeSettings(**BUS, host="0.0.0.0", api_keys=["0" * 64]).host == "0.0.0.0"
