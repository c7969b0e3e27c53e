"""The list of attacks is complete, and the page that shows it is the one that the tests assert."""

from services.reward.sandbox import MECHANISMS
from tests.reward.hostile import table
from tests.reward.hostile.attacks import ATTACKS


def test_there_are_enough_of_them_and_no_mechanism_is_without_one():
    assert len(ATTACKS) >= 80 and len({one.name for one in ATTACKS}) == len(ATTACKS)
    assert {one.by for one in ATTACKS if one.mechanical and one.switched} == MECHANISMS.keys()


def test_the_page_is_the_one_that_the_list_makes():
    assert table.DOCUMENT.read_text() == table.document(), "run: python -m tests.reward.hostile.table"
