"""All attacks, by what they are about."""

from tests.reward.hostile import attacks_on_limits, attacks_on_machine, attacks_on_rewards
from tests.reward.hostile.attack import Attack

FAMILIES: dict[str, list[Attack]] = {
    **attacks_on_limits.FAMILIES,
    **attacks_on_machine.FAMILIES,
    **attacks_on_rewards.FAMILIES,
}
ATTACKS = [attack for family in FAMILIES.values() for attack in family]
