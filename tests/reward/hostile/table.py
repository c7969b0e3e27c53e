"""Writes `docs/sandbox.md`: every attack, what stops it, and what became of it, as the tests assert it.

python -m tests.reward.hostile.table
"""

from pathlib import Path

from services.reward.sandbox import MECHANISMS
from tests.reward.hostile.attack import DESIGN, Attack
from tests.reward.hostile.attacks import ATTACKS, FAMILIES

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "sandbox.md"
HEAD = Path(__file__).with_name("page.md")


def document() -> str:
    """The whole page."""
    parts = [HEAD.read_text().format(attacks=len(ATTACKS)), "## Attacks\n"]
    for family, attacks in FAMILIES.items():
        parts.append(f"\n### {family.capitalize()}\n\n{_table(attacks)}")
    return "".join([*parts, "\n## What stops them\n\n", _mechanisms()])


def _table(attacks: list[Attack]) -> str:
    rows = [
        ["Attack", "It …", "Stopped by", "Outcome", "Without"],
        ["---"] * 5,
        *([one.name, one.tries, _stopped(one), one.outcome, _without(one)] for one in attacks),
    ]
    return _lines(rows)


def _stopped(attack: Attack) -> str:
    return f"{attack.by} ({', '.join(attack.also)})" if attack.also else attack.by


def _without(attack: Attack) -> str:
    if attack.mechanical and attack.switched:
        return "succeeds"
    return "fools" if attack.cheats else ""


def _mechanisms() -> str:
    counted = [[one.name, _level(one.name), one.stops, str(_count(one.name))] for one in MECHANISMS.values()]
    designed = [[name, "always", text, str(_count(name))] for name, text in DESIGN.items()]
    head = [
        [
            "Mechanism",
            "From level",
            "What would go on without it, or what it is",
            "Attacks that it stops, alone or with others",
        ],
        ["---"] * 4,
    ]
    return _lines([*head, *counted, *designed])


def _level(name: str) -> str:
    level = MECHANISMS[name].level
    return "where there is" if level is None else level.name.lower()


def _count(name: str) -> int:
    return sum(name in (one.by, *one.also) for one in ATTACKS)


def _lines(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    DOCUMENT.write_text(document())
