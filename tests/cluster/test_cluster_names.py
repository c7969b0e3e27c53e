"""The SDK's copy of the rule that names a base model's services is the server's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import names as server
from rekindle.cluster import names


@given(st.text())
def test_a_name_has_the_same_token_on_both_sides(name: str) -> None:
    assert names.token(name) == server.token(name)


@pytest.mark.parametrize("base", [None, "Qwen/Qwen3-8B", "größe", "a" * 300, "///"])
def test_a_service_has_the_same_name_on_both_sides_and_it_is_a_dns_label(base: str | None) -> None:
    for kind in ("train", "sample", "register", "forget"):
        assert names.service_name(kind, base) == server.service_name(kind, base)
        assert len(names.service_name(kind, base)) <= 63
