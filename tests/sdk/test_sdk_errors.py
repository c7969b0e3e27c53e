"""The tree of errors: which status becomes which, categories, and that they survive pickling."""

import inspect
import pickle

import pytest

from rekindle import errors
from rekindle.errors import APIError, InvalidField, RekindleError, RequestFailed, api_error


@pytest.mark.parametrize(
    ("status", "kind", "category"),
    [
        (400, errors.BadRequest, "user"),
        (401, errors.Unauthorized, "user"),
        (403, errors.Forbidden, "user"),
        (404, errors.NotFound, "user"),
        (410, errors.Gone, "user"),
        (413, errors.BadRequest, "user"),
        (422, errors.BadRequest, "user"),
        (429, errors.RateLimited, "server"),
        (500, errors.ServerUnavailable, "server"),
        (503, errors.ServerUnavailable, "server"),
    ],
)
def test_a_status_has_its_error_and_category(status: int, kind: type[APIError], category: str) -> None:
    error = api_error(status, "rank: too high", 2.5)
    assert type(error) is kind and error.category == category
    assert (error.status, error.detail, error.retry_after) == (status, "rank: too high", 2.5)
    assert str(error) == f"{status}: rank: too high"


def test_everything_is_in_one_tree_that_the_docstring_draws() -> None:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    raised = [kind for kind in classes if issubclass(kind, Exception)]
    assert len(raised) > 10 and all(issubclass(kind, RekindleError) for kind in raised)
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in raised)
    assert issubclass(InvalidField, ValueError)


@pytest.mark.parametrize(
    "error",
    [
        api_error(404, "no such run"),
        RequestFailed("too long", "user", "m:3"),
        InvalidField("data[0]", "empty"),
        errors.ConnectionFailed("http://x: refused"),
    ],
)
def test_an_error_survives_pickling(error: RekindleError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and vars(copy) == vars(error)
    assert copy.category == error.category
