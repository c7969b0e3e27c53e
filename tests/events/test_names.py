"""Names from outside become tokens that NATS and DNS take."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import ids, names

ANY_NAME = st.text(st.characters(), max_size=200)
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@given(ANY_NAME)
def test_a_token_of_any_name_is_a_dns_label_and_a_nats_token(name: str) -> None:
    assert LABEL.fullmatch(names.token(name))


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_a_token_is_short(name: str) -> None:
    assert len(names.token(name)) <= 30 + 1 + 8


@given(ANY_NAME, ANY_NAME)
def test_distinct_names_have_distinct_tokens(one: str, other: str) -> None:
    assert (names.token(one) == names.token(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Qwen/Qwen3-8B", "qwen/qwen3-8b"),
        ("a/b", "a.b"),
        ("a" * 40, "a" * 41),
        ("é", "è"),
        ("", "-"),
        (">", "*"),
    ],
)
def test_names_whose_slugs_collide_stay_apart(one: str, other: str) -> None:
    assert names.token(one) != names.token(other)


def test_half_a_surrogate_pair_has_a_token_too() -> None:
    assert LABEL.fullmatch(names.token("\ud800"))


def test_tokens_never_change_between_releases() -> None:
    assert names.token("Qwen/Qwen3-8B") == "qwen-qwen3-8b-a82fd547"


@given(ANY_NAME, ANY_NAME, ANY_NAME, st.integers(0, 2**40))
def test_subjects_have_no_wildcards_blanks_or_empty_tokens(base: str, tenant: str, run: str, n: int) -> None:
    for subject in (
        names.run_subject(base, tenant, run, "cmd", n),
        names.checkpoint_subject(base, tenant, run, "weights", base),
        names.sample_subject(base, tenant, run, run, n),
        names.result_subject("sample", tenant, run, n),
        names.record_subject("run", tenant, run),
    ):
        assert re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+", subject)


@given(ANY_NAME, ANY_NAME, ANY_NAME)
def test_a_checkpoint_of_any_name_stays_a_result_of_nobody(base: str, run: str, name: str) -> None:
    subject = names.checkpoint_subject(base, "local", run, "weights", name)
    assert not matches(names.run_filter(base, "result"), subject)
    assert not matches(names.run_filter(base, "cmd"), subject)
    assert matches(names.run_filter(base, "cmd"), names.run_subject(base, "local", run, "cmd", 3))


def matches(pattern: str, subject: str) -> bool:
    ours, theirs = pattern.split("."), subject.split(".")
    return len(ours) == len(theirs) and all(a in ("*", b) for a, b in zip(ours, theirs, strict=True))


@given(st.text(min_size=1), st.integers(0, 10**18))
def test_a_future_id_is_split_where_it_was_joined(owner: str, number: int) -> None:
    assert ids.split_future_id(ids.future_id(owner, number)) == (owner, number)


@pytest.mark.parametrize("bad", ["", "abc", ":3", "a:", "a:-1", "a:b", "a:٣", "a:1.5", "a:" + "9" * 5000])
def test_an_id_of_no_future_is_a_value_error(bad: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ids.split_future_id(bad)


def test_no_two_samplers_of_a_session_share_a_subject() -> None:
    session = "5f0c7a3e-9d0f-4a55-8f6c-0e1d2c3b4a59"
    subjects = {names.record_subject("sampler", "t", ids.sampler_id(session, n)) for n in range(300_000)}
    assert len(subjects) == 300_000


def test_an_id_of_another_form_is_a_name_like_any_other() -> None:
    for id in ("s:train:x", "s:other:1", "s", "s:train", ""):
        assert names.id_token(id) == names.token(id)
