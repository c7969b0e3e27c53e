"""The unmodified `tinker` SDK against the session's stack."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import tinker

from tests.stack import Stack

KEY = "tml-local"


@contextmanager
def forgiven() -> Iterator[None]:
    """The SDK leaves connections to the garbage collector, which warns of each: it shall do so here."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        if was_enabled:
            gc.enable()


@contextmanager
def connected(url: str) -> Iterator[tinker.ServiceClient]:
    """A service client, closed afterwards."""
    with forgiven():
        client = tinker.ServiceClient(base_url=url, api_key=KEY)
        yield client
        client.close("success").result(60)
        del client


@pytest.fixture(scope="module")
def service(stack: Stack) -> Iterator[tinker.ServiceClient]:
    with connected(stack.url) as client:
        yield client


@pytest.fixture(scope="module")
def rest(stack: Stack) -> Iterator[tinker.RestClient]:
    with forgiven():
        client = tinker.RestClient(base_url=stack.url, api_key=KEY)
        yield client
        del client
