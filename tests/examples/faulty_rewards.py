"""The stack's own reward service with faults in its grading processes; all else is the real thing.

python -m tests.examples.faulty_rewards up …       `rekindle up` with such a reward service
python -m tests.examples.faulty_rewards MODULE…    a warm parent of services
"""

import importlib
import sys

from services.local import warm
from tests.chaos import mortal
from tests.examples import fates

MODULE = "tests.examples.faulty_rewards"
GRADER = "tests.examples.faulty_sql"
REWARD = "services.reward.app"


def make_faulty() -> None:
    """Have the service's pool import the faulty grader in its processes, and tell them the folder."""
    from services.reward import app, process
    from services.reward.pool import Pool

    def faulty_pool(size: int, *, memory_bytes: int, modules: list[str]) -> Pool:
        return Pool(size, memory_bytes=memory_bytes, modules=[*modules, GRADER])

    app.Pool = faulty_pool  # type: ignore[assignment, attr-defined]
    process.KEPT = (*process.KEPT, fates.FOLDER)  # type: ignore[assignment]


def main() -> None:
    if sys.argv[1] == "up":
        mortal.up(MODULE)
        return
    for module in sys.argv[1:]:
        importlib.import_module(module)
    if REWARD in sys.argv:
        make_faulty()
    warm.main()


if __name__ == "__main__":
    main()
