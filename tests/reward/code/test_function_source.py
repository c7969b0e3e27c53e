"""What can be known of a reward function's file without running it."""

import re

import pytest

from rekindle.types import InvalidField
from services.reward.code.source import _blocks, describe, missing, version_of

PEP_723 = re.compile(r"(?m)^# /// script$\s((^#(| .*)$\s)+)^# ///$")
SCRIPT = "# /// script\n# requires-python = '>=3.11'\n# dependencies = [\n#   'numpy>=2',\n# ]\n# ///\n"
PLAIN = "def f(completions, **columns): return [0.0]\n"


@pytest.mark.parametrize(
    ("source", "function", "columns"),
    [
        (PLAIN, "f", ()),
        ("def f(prompts, completions, answer, limit=3, *, strict, loose=1): ...", "f", ("answer", "strict")),
        ("async def f(completions): ...", "f", ()),
        ("def _help(): ...\ndef f(completions): ...\nclass C:\n    def g(self): ...", "f", ()),
        ("def f(x): ...\ndef reward(completions, y): ...\ndef g(z): ...", "reward", ("y",)),
        ("def f(completions, *rest, answer): ...", "f", ("answer",)),
    ],
)
def test_the_one_public_function_and_the_columns_that_it_takes_are_found(
    source: str, function: str, columns: tuple[str, ...]
):
    found = describe(source)
    assert (found.function, found.columns) == (function, columns)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(", "not Python"),
        ("x = '\0'", "not Python"),
        ("(" * 1000, "not Python"),
        ("x = 1", "found none"),
        ("def f(): ...\ndef g(): ...", "found f, g"),
        ("def f(completions, /): ...", "parameters before '/'"),
        (SCRIPT + "import os\n" + SCRIPT + PLAIN, "more than one block"),
        ("# /// script\n# dependencies = 3\n# ///\n" + PLAIN, "expected a list"),
        ("# /// script\n# dependencies = ['not a name!']\n# ///\n" + PLAIN, "# /// script"),
        ("# /// script\n# dependencies = [\n# ///\n" + PLAIN, "# /// script"),
        ("# /// script\n# requires-python = 'new'\n# ///\n" + PLAIN, "# /// script"),
        (f"# /// script\n# deep = {'[' * 9999}\n# ///\n" + PLAIN, "# /// script"),
    ],
)
def test_what_is_no_reward_function_is_refused_and_said(source: str, reason: str):
    with pytest.raises(InvalidField, match="source: ") as told:
        describe(source)
    assert reason in told.value.reason


def test_requirements_are_read_as_pep_723_has_them():
    found = describe(SCRIPT + PLAIN)
    assert (found.requirements, found.python) == (("numpy>=2",), ">=3.11")
    assert describe(PLAIN).requirements == ()


@pytest.mark.parametrize(
    "around",
    [
        "{}\n# ///\n",
        "{}\n# ///\n# ///\n",  # the last line that closes it
        "# /// script\n# ///\n\n{}\n# ///\n",  # a block is not empty
        "# /// other\n# x = 1\n# ///\n\n{}\n# ///\n# /// script\n# more",
        "{}\n# ///",
        "{}\n#///\n",
        "{}\n\n# ///\n",
        " {}\n# ///\n",
        "{}\n# /// script\n# ///\n",
    ],
)
def test_blocks_are_those_that_pep_723_s_expression_finds(around: str):
    source = around.format("# /// script\n#\n# a = 1\n#  b") + "\nx = 1\n"
    found = PEP_723.findall(source)
    assert ["\n".join(block) + "\n" for block in _blocks(source)] == [content for content, *_ in found]


def test_a_file_that_opens_blocks_and_closes_none_is_soon_read():
    assert _blocks("# /// script\n" * 20_000) == []  # minutes by the expression


@pytest.mark.parametrize(
    ("said", "lacking"),
    [
        ("dependencies = ['pydantic>=2', 'httpx']", []),
        ("dependencies = ['pydantic>=99']", ["pydantic>=99 (installed is "]),
        ("dependencies = ['no-such-thing-at-all']", ["no-such-thing-at-all (not installed)"]),
        ("dependencies = ['no-such-thing-at-all; sys_platform == \"win32\"']", []),
        ("requires-python = '>=4'", ["Python >=4 (this is 3."]),
    ],
)
def test_what_is_required_and_not_here_is_named(said: str, lacking: list[str]):
    found = missing(describe(f"# /// script\n# {said}\n# ///\n{PLAIN}"))
    assert len(found) == len(lacking)
    assert all(one.startswith(start) for one, start in zip(found, lacking, strict=True))


def test_a_version_is_the_hash_of_the_file():
    assert version_of(PLAIN) == version_of(PLAIN) != version_of(PLAIN + "\n")
    assert len(version_of(PLAIN)) == 16
