"""Which row a prompt number is: every epoch is a permutation of all rows of its own.

A pure function of seed, rows and number, so that a state needs to remember nothing but how many were drawn.
"""

import random
from functools import lru_cache


def row_of(prompt: int, *, seed: int, rows: int) -> int:
    """The row, from 0, of prompt number `prompt`, from 0, in a dataset of so many rows."""
    epoch, place = divmod(prompt, rows)
    return _permutation(seed, rows, epoch)[place]


@lru_cache(maxsize=4)  # a run asks for neighbours; several may be driven in turn
def _permutation(seed: int, rows: int, epoch: int) -> list[int]:
    order = list(range(rows))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return order
