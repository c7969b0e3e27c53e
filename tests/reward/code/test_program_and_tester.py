"""What a test may say of a program in another process, and that no program passes a test but by right values."""

import pytest

from services.reward.sandbox import Sandbox
from tests.reward.code.rooms import judged

pytestmark = pytest.mark.asyncio(loop_scope="module")

HONEST = {
    "a function": ("def add(a, b): return a + b", "assert add(2, 3) == 5 and add(b=1, a=2) == 3"),
    "human eval": (
        "def add(a, b): return a + b",
        "def check(candidate):\n    assert candidate(1, 2) == 3\n\ncheck(add)",
    ),
    "leetcode": (
        "from typing import List\nclass Solution:\n    def total(self, of: List[int]) -> int:\n        return sum(of)",
        "assert Solution().total([1, 2, 3]) == 6",
    ),
    "pytest": (
        "def add(a, b): return a + b",
        "import solution\nfrom solution import add as plus\n"
        "def test_it():\n    assert plus(1, 2) == solution.add(2, 1)",
    ),
    "a builtin's name": ("def sum(a, b): return a * b", "from solution import sum\nassert sum(2, 5) == 10"),
    "a module's name": ("def copy(x): return x + 1", "assert copy(2) == 3"),
    "a module": ("import math\ndef f(x): return math.sqrt(x)", "assert math.isclose(f(2), 2 ** 0.5)"),
    "state": (
        "class Stack:\n    def __init__(self): self.all = []\n    def push(self, x): self.all.append(x); return self\n"
        "    def __len__(self): return len(self.all)\n    def __getitem__(self, i): return self.all[i]\n"
        "    def __str__(self): return str(self.all)",
        "s = Stack()\nassert s.push(1) is s and s.push('b') is s\nassert len(s) == 2 and s[-1] == 'b'\n"
        "assert list(s) == [1, 'b'] and str(s) == \"[1, 'b']\" and s.all == [1, 'b']\n"
        "s.all = []\nassert not s\nassert isinstance(s, Stack) and not isinstance(1, Stack)",
    ),
    "links": (
        "class Node:\n    def __init__(self, value, next=None): self.value, self.next = value, next\n"
        "def last(node):\n    while node.next: node = node.next\n    return node",
        "node = Node(1, Node(2, Node(3)))\nassert last(node).value == 3 and last(node) is node.next.next",
    ),
    "a class of the test": (
        "def reverse(node):\n    back = None\n    while node:\n        node.next, back, node = back, node, node.next\n"
        "    return back",
        "class Node:\n    def __init__(self, value, next=None): self.value, self.next = value, next\n"
        "head = Node(1, Node(2))\nback = reverse(head)\nassert back.value == 2 and back.next is head",
    ),
    "in place": (
        "def order(of): of.sort()\ndef clear(of): of.clear()\ndef mark(board): board[0][0] = 'X'",
        "x, y, board = [3, 1], {1: 2}, [['.']]\norder(x); clear(y); mark(board)\n"
        "assert x == [1, 3] and y == {} and board == [['X']]",
    ),
    "functions of the test": (
        "def apply(f, xs): return [f(x) for x in xs]\ndef twice(f): return lambda x: f(f(x))",
        "assert apply(lambda x: x * 2, [1, 2]) == [2, 4] and apply(len, ['a', 'bc']) == [1, 2]\n"
        "assert apply(str, [1]) == ['1'] and twice(twice(lambda x: x + 1))(0) == 4",
    ),
    "a generator": (
        "def count():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "import itertools\nassert list(itertools.islice(count(), 3)) == [0, 1, 2]\n"
        "g = count()\nassert next(g) == 0 and next(g) == 1",
    ),
    "given a generator": ("def total(xs): return sum(xs)", "assert total(x for x in (1, 2)) == 3"),
    "async": (
        "import asyncio\nasync def later(x):\n    await asyncio.sleep(0)\n    return x",
        "import asyncio\nassert asyncio.run(later(3)) == 3\n"
        "async def main(): return await later(1) + await later(2)\nassert asyncio.run(main()) == 3\n"
        "async def test_it(): assert await asyncio.gather(later(1), later(2)) == [1, 2]",
    ),
    "exceptions": (
        "class Mine(ValueError): pass\ndef f(x):\n    if x == 1: raise KeyError('k')\n    raise Mine('too', 2)",
        "for x, kind, said in ((1, KeyError, ('k',)), (2, ValueError, ('too', 2))):\n    try:\n        f(x)\n"
        "    except kind as error:\n        assert error.args == said\n    else:\n        raise AssertionError",
    ),
    "derived types": (
        "from collections import Counter, namedtuple, deque\nimport enum\nP = namedtuple('P', 'x y')\n"
        "class E(enum.IntEnum): A = 4\nclass S(str, enum.Enum): A = 'a'\n"
        "def f(): return [P(1, 2), Counter('aab'), deque([1]), E.A, S.A]",
        "from collections import deque\nassert f() == [(1, 2), {'a': 2, 'b': 1}, deque([1]), 4, 'a']",
    ),
    "values of all kinds": (
        "def same(x): return x",
        "import math\nfrom datetime import *\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
        "for x in (None, True, -2**100, 2**63, 0.1, float('inf'), 1j, 'ä\\ud800', b'\\0', bytearray(b'a'), (), [[]],\n"
        "    {1}, frozenset({(1, 2)}), {(1, None): {2: []}, True: 0}, range(1, 9, 2), Decimal('0.10'), int,\n"
        "    Fraction(1, 3),\n"
        "    date(2026, 1, 2), datetime(2026, 1, 2, 3, tzinfo=timezone.utc), time(1, 2), timedelta(1, 2, 3)):\n"
        "    y = same(x)\n    assert y == x and type(y) is type(x), (x, y)\nassert math.isnan(same(math.nan))",
    ),
}


@pytest.mark.parametrize("which", HONEST)
async def test_an_honest_program_passes(sandbox: Sandbox, which: str):
    program, test = HONEST[which]
    score = await judged(sandbox, program, test, seconds=10)
    assert (score.outcome, score.value) == ("scored", 1.0), score.reason


ALWAYS = "class Yes:\n    def __eq__(self, other): return True\n    __ne__ = lambda self, other: False\n"
CHEATS = {
    "an equal to everything": f"{ALWAYS}    __hash__ = None\ndef add(a, b): return Yes()",
    "an int that equals everything": (
        "class Yes(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Yes(0)"
    ),
    "arithmetic that is always right": (
        "class Yes:\n    def __sub__(self, other): return 0\n    __rsub__ = __sub__\ndef add(a, b): return Yes()"
    ),
    "a container of everything": (
        "class Yes:\n    def __contains__(self, x): return True\n    def __iter__(self): return iter(())\n"
        "def add(a, b): return Yes()"
    ),
    "exit before the assertions": "import os\nos._exit(0)",
    "exit in a call": "import os\ndef add(a, b): os._exit(0)",
    "sys.exit in a call": "import sys\ndef add(a, b): sys.exit(0)",
    "sys.exit at once": "import sys\nsys.exit(0)",
    "the end of an iteration": "def add(a, b): raise StopIteration",
    "the end of an iteration, said by hand": (
        "import os, json\ndef add(a, b):\n    os.write(5, b'[\"end\"]\\n')\n    return 0"
    ),
    "a report that is forged": (
        'import os\nfor fd in (1, 3, 4, 5):\n    try: os.write(fd, b\'["passed", ""]\\n\')\n    except OSError: pass\n'
        "def add(a, b): return 0"
    ),
    "an answer that is forged": (
        'import os\ndef add(a, b):\n    os.write(5, b\'["value", ["yours", 0]]\\n\')\n    return 0'
    ),
    "garbage on the line": "import os\ndef add(a, b): os.write(5, b'[' * 100000 + b'\\n')",
    "a line without end": "import os\ndef add(a, b):\n    while True: os.write(5, b'x' * 65536)",
    "a value that is too deep": (
        "def add(a, b):\n    x = []\n    for _ in range(5000): x = [x]\n    return x"
    ),
    "a value that holds itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "a closed line": "import os\nos.close(5)\ndef add(a, b): return 0",
    "its own builtins": (
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = builtins.any = lambda x: True\n"
        "def abs(x): return 0\ndef all(x): return True\nAssertionError = None\ndef add(a, b): return 0"
    ),
    "a module of its own": (
        "class math:\n    isclose = staticmethod(lambda *a: True)\ndef add(a, b): return 0"
    ),
    "a harness that is patched": (
        "import sys, services.reward.guests.tester as tester, services.reward.guests.peer as peer\n"
        "tester._verdict = lambda *a: ('passed', '')\npeer.Remote.__eq__ = lambda *a: True\n"
        "tester.Tester.ask = lambda *a: 3\ndef add(a, b): return 0"
    ),
    "arguments that are changed": "def add(a, b): return None",
    "the caller's frames": (
        "import sys\ndef add(a, b):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in [*frame.f_locals.values()]:\n            if value == 5: return value\n"
        "        frame = frame.f_back\n    return 0"
    ),
    "an unraisable end": "class D:\n    def __del__(self):\n        import os; os._exit(0)\ndef add(a, b): return D()",
}
TESTS = [
    "assert add(2, 3) == 5",
    "assert not add(2, 3) != 5",
    "assert 5 == add(2, 3)",
    "assert abs(add(2, 3) - 5) < 1e-9",
    "assert math.isclose(add(2, 3), 5)",
    "assert all(map(lambda x: add(x, 3) == x + 3, [1, 2]))",
    "assert all(add(x, 3) == x + 3 for x in [1, 2])",
    "assert 5 in [add(2, 3)]",
    "assert sum(map(add, [1, 2], [3, 4])) in (10,)",
    "assert {5: 'yes'}.get(add(2, 3)) == 'yes'",
    "assert 5 in (add(2, 3),) or 5 in add(2, 3)",
    "try:\n    assert add(2, 3) == 5\nexcept TypeError:\n    raise AssertionError",
]


@pytest.mark.parametrize("which", CHEATS)
async def test_no_program_passes_but_by_right_values(sandbox: Sandbox, which: str):
    score = await judged(sandbox, CHEATS[which], TESTS, seconds=0.5)
    assert score.outcome in ("scored", "invalid") and score.value in (0.0, -1.0), score


SWALLOWING = [
    "try:\n    add('x', [])\n    assert False\nexcept Exception:\n    pass",
    "try:\n    add('x', [])\nexcept:\n    pass\nelse:\n    assert False",
    "import contextlib\nwith contextlib.suppress(BaseException):\n    assert add(2, 3) == 5",
    "try:\n    assert add(2, 3) == 5\nfinally:\n    add(1, 2)",
]


@pytest.mark.parametrize(
    "end", ["import os; os._exit(0)", "import os; os.write(5, b'no\\n')", "[0] * 2**40; 1/0"]
)
async def test_a_test_that_waits_for_an_exception_is_not_passed_by_dying(sandbox: Sandbox, end: str):
    program = f"def add(a, b):\n    {end}"
    died = await judged(sandbox, program, SWALLOWING[:2], seconds=2)
    honest = await judged(sandbox, "def add(a, b): return a + b", SWALLOWING[:2], seconds=2)
    assert honest.value == 1.0
    assert died.value == (1.0 if "1/0" in end else -1.0), "an exception is an exception, an end is none"


async def test_a_list_that_was_changed_by_who_returns_something_stays_as_it_was(sandbox: Sandbox):
    program = "def order(of):\n    of.clear()\n    return []\n"
    test = "data = [3, 1]\nassert order(data) == sorted(data)"
    assert (await judged(sandbox, program, test)).value == 0.0


LENT = {
    "f": ("__globals__", "__code__", "note"),
    "o": ("_private", "__class__"),
    "g": ("gi_frame",),
    "m": ("__self__",),
}


@pytest.mark.parametrize(("what", "name"), [(what, name) for what, all_ in LENT.items() for name in all_])
@pytest.mark.parametrize("operation", ["get", "set"])
async def test_what_a_test_lends_shows_nothing_else_of_the_test(
    sandbox: Sandbox, what: str, name: str, operation: str
):
    program = (
        "def spy(f, o, g, m):\n"
        f"    ask = {what}._Remote__peer.ask\n"
        f"    try: ask({operation!r}, {what}._Remote__ref, {name!r}, *[1][:{operation == 'set'}])\n"
        "    except PermissionError: return 'refused'\n"
        "    return 'done'\n"
    )
    test = (
        "class Own:\n    _private = 1\n    def method(self): return 1\n"
        "def f(): return 1\nf.note = 2\n"
        "assert spy(f, Own(), (x for x in (1,)), Own().method) == 'refused'"
    )
    score = await judged(sandbox, program, test)
    assert score.value == 1.0, score.reason


@pytest.mark.parametrize("value", ["__builtins__", "__import__('sys')", "object()", "type(spy)"])
async def test_what_is_neither_plain_nor_the_test_s_own_is_not_lent(sandbox: Sandbox, value: str):
    program = "def spy(what): return what is not None"
    score = await judged(sandbox, program, f"assert spy({value})")
    refused = score.value == 0.0 and score.reason is not None and "cannot be given" in score.reason
    assert refused == (value != "type(spy)"), score
