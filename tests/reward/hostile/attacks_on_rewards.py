"""Programs that want a reward which they have not earned, or to be excused; and users' functions that want either."""

from tests.reward.hostile.attack import (
    ALONE,
    APART,
    CHECKED,
    FACTS,
    OUTSIDE,
    VALUES,
    Attack,
    Evidence,
    hurt,
    told,
)

SETS = "assert len(set(many())) == 3"
CALLBACK = """
def check():
    return 5
class Case:
    answer = 5
    def __init__(self): self._hidden = 5
assert solve(check, Case()) == 'nothing'
"""


def _forty(evidence: Evidence) -> bool:
    return evidence.score.value == 40.0


def solution(name: str, tries: str, program: str, by: str, **more: object) -> Attack:
    """A program whose function a test calls."""
    return Attack(name=name, tries=tries, program=program, by=by, kind="solution", **more)  # type: ignore[arg-type]


ENDS = [
    solution("_exit at once", "ends with status 0 before the test begins", "import os\nos._exit(0)", APART),
    solution(
        "_exit in a call",
        "ends with status 0 when it is called",
        "import os\ndef add(a, b): os._exit(0)",
        APART,
    ),
    solution("sys.exit at once", "leaves politely while it is imported", "import sys\nsys.exit(0)", APART),
    solution(
        "sys.exit in a call",
        "leaves politely when it is called",
        "import sys\ndef add(a, b): sys.exit(0)",
        APART,
        outcome="0",
        says="SystemExit",
    ),
    solution(
        "an exit handler",
        "changes the status at its exit",
        "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): raise SystemExit(0)",
        APART,
        outcome="0",
        says="SystemExit",
    ),
    solution(
        "__del__",
        "ends when its answer is thrown away",
        "import os\nclass D:\n    def __del__(self): os._exit(0)\ndef add(a, b): return D()",
        APART,
        outcome="0 or invalid",
    ),
    solution(
        "a signal handler",
        "ends by an alarm, in whose handler it says 0",
        "import os, signal\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\nsignal.alarm(1)\n"
        "def add(a, b):\n    while True: pass",
        APART,
        says="has ended",
    ),
    solution(
        "the interpreter's own exit",
        "ends the process by libc",
        "import ctypes\ndef add(a, b): ctypes.CDLL(None)._exit(0)",
        APART,
    ),
    solution(
        "KeyboardInterrupt",
        "raises what no test catches",
        "def add(a, b): raise KeyboardInterrupt",
        APART,
        outcome="0",
        says="KeyboardInterrupt",
        switched=False,
    ),
    solution(
        "GeneratorExit",
        "raises what ends generators quietly",
        "def add(a, b): raise GeneratorExit",
        APART,
        outcome="0",
        says="GeneratorExit",
        tests="assert all(add(x, 3) == x + 3 for x in [1, 2])",
        switched=False,
    ),
    solution(
        "StopIteration",
        "raises what ends a loop early and well",
        "def add(a, b): raise StopIteration",
        APART,
        outcome="0",
        says="StopIteration",
        tests="assert all(map(lambda x: add(x, 3) == x + 3, [1, 2]))",
    ),
    solution(
        "an exception that lies",
        "raises an AssertionError that says nothing, is false and equals everything",
        "class Quiet(AssertionError):\n    def __str__(self): return ''\n    def __bool__(self): return False\n"
        "    def __eq__(self, other): return True\ndef add(a, b): raise Quiet()",
        VALUES,
        outcome="0",
        says="AssertionError",
        switched=False,
    ),
    solution(
        "an exception that cannot be told",
        "raises one whose text, arguments and class cannot be had",
        "class Dark(Exception):\n    def __str__(self): raise SystemExit(0)\n"
        "    args = property(lambda self: 1 / 0)\ndef add(a, b): raise Dark()",
        VALUES,
        outcome="0 or invalid",
        switched=False,
    ),
]

LIES = [
    solution(
        "equal to everything",
        "answers with an object that equals everything",
        "class Yes:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        "def add(a, b): return Yes()",
        VALUES,
        outcome="0",
    ),
    solution(
        "a number that equals everything",
        "answers with a kind of int",
        "class Yes(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Yes(0)",
        VALUES,
        outcome="0",
    ),
    solution(
        "a text that equals everything",
        "answers with a kind of str",
        "class Yes(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
        "def name(): return Yes('no')",
        VALUES,
        outcome="0",
        tests="assert name() == 'right'",
    ),
    solution(
        "a difference of nothing",
        "answers with an object from which one takes what one likes, and nothing is left",
        "class Yes:\n    def __sub__(self, other): return 0\n    __rsub__ = __sub__\ndef add(a, b): return Yes()",
        VALUES,
        outcome="0",
        tests="assert abs(add(2, 3) - 5) < 1e-9",
    ),
    solution(
        "a list that lies about its length",
        "answers with a list that says it has three elements",
        "class L(list):\n    def __len__(self): return 3\n    def __eq__(self, other): return True\n"
        "def three(): return L()",
        VALUES,
        outcome="0",
        tests="assert len(three()) == 3",
    ),
    solution(
        "a dictionary that has everything",
        "answers with a dictionary whose missing keys are right",
        "class D(dict):\n    def __missing__(self, key): return key\n    def __getitem__(self, key): return key\n"
        "def table(): return D()",
        VALUES,
        outcome="0",
        tests="assert table()[5] == 5",
    ),
    solution(
        "a class that lies",
        "answers with an object that says it is an int",
        "class I:\n    __class__ = int\n    def __eq__(self, other): return True\n    def __hash__(self): return 5\n"
        "def add(a, b): return I()",
        VALUES,
        outcome="0",
        tests="r = add(2, 3)\nassert isinstance(r, int) and r == 5",
    ),
    solution(
        "a hash that is always right",
        "answers with an object that is found in every table",
        "class H:\n    def __hash__(self): return hash(5)\n    def __eq__(self, other): return True\n"
        "def add(a, b): return H()",
        VALUES,
        outcome="0",
        tests="assert add(2, 3) in {5}",
    ),
    solution(
        "not a number",
        "answers with what compares with nothing",
        "def add(a, b): return float('nan')",
        VALUES,
        outcome="0",
        switched=False,
    ),
    solution(
        "its own builtins",
        "makes builtins that are always content",
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = lambda x: True\ndef add(a, b): return 0",
        APART,
        outcome="0",
        tests="assert abs(add(2, 3) - 5) < 1e-9",
    ),
    solution(
        "builtins of its own name",
        "defines functions that are called as builtins are",
        "def abs(x): return 0\ndef all(x): return True\ndef add(a, b): return 0",
        APART,
        outcome="0",
        tests="assert abs(add(2, 3) - 5) < 1e-9",
        switched=False,
    ),
    solution(
        "a module of its own",
        "brings a math that finds everything close",
        "import math\nmath.isclose = lambda *a, **k: True\ndef add(a, b): return 0",
        APART,
        outcome="0",
        tests="import math\nassert math.isclose(add(2, 3), 5)",
    ),
    solution(
        "arguments that are changed",
        "changes what it was given, so that the expected value changes too",
        "def order(of):\n    of.clear()\n    return []",
        VALUES,
        outcome="0",
        tests="data = [3, 1]\nassert order(data) == sorted(data)",
    ),
    solution(
        "colliding numbers",
        "answers with numbers that all have one hash, so that the test never ends",
        "def many(): return [n * (2**61 - 1) for n in range(60_000)]",
        VALUES,
        tests=SETS,
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
]

HARNESS = [
    solution(
        "the caller's frames",
        "looks for the test in the frames that called it, and computes what it wants",
        "import re, sys\ndef add(a, b):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()):\n"
        "            found = isinstance(value, str) and re.search(r'== (\\d+)', value)\n"
        "            if found: return int(found[1])\n        frame = frame.f_back\n    return 0",
        APART,
        outcome="0",
    ),
    solution(
        "everybody's objects",
        "looks for the test among all objects of its process",
        "import gc, re\ndef add(a, b):\n    for one in gc.get_objects():\n"
        "        for value in (one if type(one) in (list, tuple) else ()):\n"
        "            found = type(value) is str and re.fullmatch(r'assert add.* == (\\d+)', value)\n"
        "            if found: return int(found[1])\n    return 0",
        APART,
        outcome="0",
    ),
    solution(
        "tracing",
        "ends well as soon as a line of the test is reached",
        "import os, sys\ndef trace(frame, event, what):\n"
        "    if frame.f_code.co_filename == '<test>': os._exit(0)\n    return trace\n"
        "sys.settrace(trace)\ndef add(a, b): return 0",
        APART,
        outcome="0",
    ),
    solution(
        "what prints errors",
        "has the harness end well where it wants to show an error",
        "import os, traceback\ntraceback.print_exc = lambda *a, **k: os._exit(0)\ndef add(a, b): return 0",
        APART,
        outcome="0",
    ),
    solution(
        "the harness's modules",
        "changes the code that judges it",
        "import services.reward.guests.tester as tester, services.reward.guests.peer as peer\n"
        "tester._verdict = lambda *a: ('passed', '')\npeer.Remote.__eq__ = lambda *a: True\n"
        "tester.Tester.ask = lambda *a: 5\ndef add(a, b): return 0",
        APART,
        outcome="0",
        switched=False,
    ),
    solution(
        "the harness's libraries",
        "changes json, socket and print under the harness",
        'import builtins, json, os, socket\njson.dumps = lambda *a, **k: \'["passed", ""]\'\n'
        "socket.socket = None\nbuiltins.print = lambda *a: None\ndef add(a, b): return 0",
        APART,
        outcome="0 or invalid",
        switched=False,
    ),
    solution(
        "the machine code of an assertion",
        "writes over the class of the exception that a failed assertion raises",
        "import ctypes\nctypes.pythonapi.PyType_Modified(ctypes.py_object(AssertionError))\n"
        "import builtins\nbuiltins.AssertionError = type('Quiet', (SystemExit,), {})\ndef add(a, b): return 0",
        APART,
        outcome="0",
        switched=False,
    ),
    solution(
        "reports to everybody",
        "writes that it has passed to every descriptor",
        'import os\nfor fd in range(64):\n    try: os.write(fd, b\'["passed", ""]\\n\')\n    except OSError: pass\n'
        "def add(a, b): return 0",
        APART,
        switched=False,
    ),
    solution(
        "an answer too early",
        "answers before it is asked",
        'import os\nos.write(5, b\'["ready"]\\n["value", ["dict", ["add", 5]]]\\n["value", 5]\\n\')\n'
        "def add(a, b): return 0",
        APART,
        outcome="0 or invalid",
        switched=False,
    ),
    solution(
        "an answer twice",
        "answers twice, so that the second one is taken for the next question's",
        "import os\ndef add(a, b):\n    os.write(5, b'[\"value\", true]\\n')\n    return True",
        VALUES,
        outcome="0 or invalid",
        tests="assert add(2, 3) == 5 and add(1, 1) == 2",
        switched=False,
    ),
    solution(
        "an answer too late",
        "answers what was asked before",
        "last = [0]\ndef add(a, b):\n    last.append(a + b)\n    return last[-2]",
        VALUES,
        outcome="0",
        tests="assert add(2, 3) == 5 and add(1, 1) == 2",
        switched=False,
    ),
    solution(
        "the end of an iteration, by hand",
        "says that a loop is over where none is",
        "import os\ndef add(a, b):\n    os.write(5, b'[\"end\"]\\n')\n    return 0",
        VALUES,
        outcome="0 or invalid",
        tests="assert all(map(lambda x: add(x, 3) == x + 3, [1, 2]))",
        switched=False,
    ),
    solution(
        "an answer of the test's own",
        "answers with a reference to something of the test",
        'import os\ndef add(a, b):\n    os.write(5, b\'["value", ["yours", 0]]\\n\')\n    return 0',
        VALUES,
        switched=False,
    ),
    solution(
        "questions",
        "asks the test for every object that it might have",
        "import gc\nfrom services.reward.guests.peer import Peer\ndef add(a, b):\n"
        "    peer = next(one for one in gc.get_objects() if isinstance(one, Peer))\n"
        "    for number in range(20):\n        for what in ('get', 'call', 'item', 'repr', 'iter'):\n"
        "            try: found = peer.ask(what, number, '__dict__')\n"
        "            except Exception: continue\n            return found\n    return 0",
        VALUES,
        outcome="0",
        switched=False,
    ),
    solution(
        "questions without end",
        "asks back for ever",
        "import gc\nfrom services.reward.guests.peer import Peer\ndef add(a, b):\n"
        "    peer = next(one for one in gc.get_objects() if isinstance(one, Peer))\n"
        "    while True:\n        try: peer.ask('len', 0)\n        except Exception: pass",
        VALUES,
        says="took longer",
        seconds=0.3,
        switched=False,
    ),
    solution(
        "the test's variables",
        "goes from a function that it is given to what that sees",
        "def solve(check, case):\n    for what in ('__globals__', '__closure__', '__code__', '__builtins__'):\n"
        "        try: return check._Remote__peer.ask('get', check._Remote__ref, what)\n"
        "        except PermissionError: pass\n"
        "    try: return case._Remote__peer.ask('get', case._Remote__ref, '_hidden')\n"
        "    except PermissionError: return 'no way'",
        VALUES,
        outcome="0",
        tests=CALLBACK,
        switched=False,
    ),
    solution(
        "an object that is changed",
        "writes over the methods of an object that it is given",
        "def solve(check, case):\n    for what in ('__class__', '__eq__', '_hidden'):\n"
        "        try: case._Remote__peer.ask('set', case._Remote__ref, what, 0)\n"
        "        except PermissionError: continue\n        return 'nothing'",
        VALUES,
        outcome="0",
        tests=CALLBACK,
        switched=False,
    ),
    solution(
        "garbage",
        "answers with what is no message",
        "import os\ndef add(a, b): os.write(5, b'[' * 100_000 + b'\\n')",
        VALUES,
        says="broke off",
        switched=False,
    ),
    solution(
        "a value that is nested",
        "answers with lists in lists in lists",
        "import os\ndef add(a, b): os.write(5, b'[\"value\", ' + b'[\"list\", ' * 900 + b'0' + b']' * 901 + b'\\n')",
        VALUES,
        says="no value",
        switched=False,
    ),
    solution(
        "a message without end",
        "sends more than anybody would hold",
        "import os\ndef add(a, b):\n    while True: os.write(5, b'x' * 65536)",
        VALUES,
        says="more than it may|took longer",
        seconds=2.0,
        switched=False,
    ),
    solution(
        "a value that fills memory",
        "answers with three million small lists",
        "import os\ndef add(a, b):\n"
        "    line = memoryview(b'[\"value\", [\"list\"' + b',[\"list\"]' * 1_600_000 + b']]\\n')\n"
        "    while line: line = line[os.write(5, line):]",
        VALUES,
        outcome="0 or invalid",
        seconds=2.0,
        switched=False,
    ),
    solution(
        "a number too long",
        "answers with a number of a million digits",
        "import os\ndef add(a, b): os.write(5, b'[\"value\", ' + b'9' * 1_000_000 + b']\\n')",
        VALUES,
        says="broke off",
        switched=False,
    ),
    solution(
        "a closed line",
        "closes the line to the test",
        "import os\nos.close(5)\ndef add(a, b): return 0",
        APART,
        switched=False,
    ),
    solution(
        "a line that is shut down",
        "shuts the line down, so that the service's end is shut too",
        "import socket\ndef add(a, b): socket.socket(fileno=5).shutdown(2)",
        APART,
        switched=False,
    ),
]

EXCUSES = [
    solution(
        "a name that is no function",
        "makes the test fail before it has used the program, as if the row were wrong",
        "add = 5",
        FACTS,
        outcome="0",
        says="not callable",
        switched=False,
    ),
    solution(
        "a name that is a coroutine",
        "is something that the test can neither call nor refer to",
        "async def later(): pass\nadd = later()",
        FACTS,
        outcome="0",
        says="TypeError",
        switched=False,
    ),
    solution(
        "a name that is missing",
        "lacks what the test imports, as if the row were wrong",
        "def other(a, b): return 0",
        FACTS,
        outcome="0",
        tests="from solution import add\nassert add(2, 3) == 5",
        says="ImportError",
        switched=False,
    ),
    solution(
        "a constant that is an object",
        "is compared without being used",
        "ANSWER = object()",
        FACTS,
        outcome="0",
        tests="assert ANSWER == 42",
        switched=False,
    ),
    Attack(
        name="a signal without a name",
        tries="ends by a signal that the grader cannot name",
        program="import os\nos.kill(os.getpid(), 40)",
        by=FACTS,
        says="signal 40",
    ),
    Attack(
        name="a name that is no text",
        tries="gives itself a name that whoever watches processes cannot read",
        program="import ctypes, time\nctypes.CDLL(None).prctl(15, b'\\xff\\xfe) R 1')\ntime.sleep(0.4)",
        by=FACTS,
        outcome="0",
    ),
    Attack(
        name="a feigned lack of memory",
        tries="ends as if the machine's memory had ended",
        program="import os\nos._exit(121)",
        by=FACTS,
        says="memory",
    ),
    Attack(
        name="a feigned kill",
        tries="ends as if somebody had killed it",
        program="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        by=FACTS,
        says="memory",
    ),
    Attack(
        name="a feigned mistake",
        tries="says by the harness's own pipe that it does not compile",
        program="import os\nos.write(3, b'syntax: none')\nos._exit(1)",
        by=FACTS,
        says="does not compile",
    ),
]

PRINTED = [
    Attack(
        name="all candidates",
        tries="prints every answer that it can think of",
        program="print(*range(100), sep='\\n')",
        by=OUTSIDE,
        outcome="0",
    ),
    Attack(
        name="an answer that is hidden",
        tries="prints a wrong one, and has the terminal put another in its place",
        program="print('9\\r\\x1b[2K\\x1b[1A5')",
        by=OUTSIDE,
        outcome="0",
    ),
    Attack(
        name="no text",
        tries="prints bytes that are no text",
        program="import os\nos.write(1, b'\\xff\\xfe5\\x00\\n')",
        by=OUTSIDE,
        outcome="0",
    ),
    Attack(
        name="on another stream",
        tries="has the right answer everywhere but where it belongs",
        program="import os\nfor fd in (2, 3): os.write(fd, b'5\\n')",
        by=OUTSIDE,
        outcome="0",
    ),
    Attack(
        name="a search for the answer",
        tries="prints all that can be found in its memory, descriptors, variables and folder",
        program="""
            import gc, os, sys
            print(sys.argv, dict(os.environ), os.listdir())
            for one in gc.get_objects():
                if type(one) in (list, tuple, dict) and 'stdout' in one: print(one)
            for fd in range(64):
                try:
                    os.set_blocking(fd, False)
                    print(os.read(fd, 1000))
                except OSError: pass
            """,
        by=OUTSIDE,
        outcome="0",
    ),
    Attack(
        name="the right answer, and a crash",
        tries="is right before it dies",
        program="import os\nprint(5, flush=True)\nos.abort()",
        by=OUTSIDE,
        says="SIGABRT",
    ),
    Attack(
        name="the right answer, and another",
        tries="is right on one of two lines",
        program="print(5)\nprint(6)",
        by=OUTSIDE,
        outcome="0",
    ),
]


def function(name: str, tries: str, body: str, by: str, **more: object) -> Attack:
    """A user's reward function."""
    program = "import os, json\ndef f(completions):\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    settings: dict[str, object] = {"outcome": "error", **more}
    return Attack(name=name, tries=tries, program=program, by=by, kind="function", **settings)  # type: ignore[arg-type]


REPORT = "os.write(3, {!r})\nos._exit(0)"

FUNCTIONS = [
    function("a boundless reward", "rewards more than sums can hold", "return [1e308]", CHECKED),
    function("no number", "rewards by NaN", "return [float('nan')]", CHECKED, says="expected finite"),
    function("too few", "forgets an item", "return []", CHECKED, says="returned 0 rewards"),
    function(
        "too many", "rewards items that nobody asked about", "return [0, 9]", CHECKED, says="returned 2"
    ),
    function("a text", "rewards by a text", "return ['9']", CHECKED, says="a str among"),
    function("nested", "rewards by a list", "return [[9]]", CHECKED, says="TypeError"),
    function(
        "sleep in a reward",
        "never returns",
        "while True: pass",
        "wall clock",
        seconds=0.2,
        outcome="timeout",
        switched=False,
    ),
    function(
        "a report that is no number",
        "reports a number that no float can hold, by hand",
        REPORT.format(b'{"rewards": [1' + b"0" * 400 + b"]}"),
        CHECKED,
        says="without its rewards",
    ),
    function(
        "a report of NaN",
        "reports NaN by hand",
        REPORT.format(b'{"rewards": [NaN]}'),
        CHECKED,
        says="without its",
    ),
    function(
        "a report of truth", "reports a truth value by hand", REPORT.format(b'{"rewards": [true]}'), CHECKED
    ),
    function(
        "half a report", "ends in the middle of its report", REPORT.format(b'{"rewards": [9.0'), CHECKED
    ),
    function(
        "two reports",
        "reports by hand before it returns",
        "os.write(3, b'{\"rewards\": [9.0]}')\nreturn [0.0]",
        CHECKED,
        says="without its rewards",
    ),
    function(
        "a nested report", "reports lists in lists", "os.write(3, b'[' * 200_000)\nos._exit(0)", CHECKED
    ),
    function(
        "a report on the wrong stream",
        "prints a report, as a chatty library or a completion that is run could",
        "os.write(1, b'{\"rewards\": [40.0]}')\nos._exit(0)",
        "report pipe",
        says="without its rewards",
        gain=_forty,
    ),
    function(
        "a signal in a reward",
        "ends by a signal that the grader cannot name",
        "os.kill(os.getpid(), 40)",
        FACTS,
        says="signal 40",
    ),
    function(
        "a kill in a reward",
        "kills a process of the service",
        "os.kill(VICTIM, 9)",
        "seccomp signals",
        also=("landlock scope", "uid drop"),
        says="PermissionError",
        gain=hurt,
    ),
    function(
        "a key in a reward",
        "reads a file of the service, and lets it be seen in an error",
        "raise ValueError(open(KEY).read())",
        "landlock filesystem",
        also=("uid drop",),
        says="PermissionError",
        gain=told,
    ),
    function(
        "state in memory",
        "counts its calls, to reward by what it has seen before",
        "seen = globals().setdefault('seen', [])\nseen.append(1)\nreturn [len(seen) - 1]",
        ALONE,
        outcome="0",
        runs=2,
        switched=False,
    ),
    function(
        "state in a module",
        "leaves something in the interpreter for the next call, or the next tenant",
        "json.mark = getattr(json, 'mark', -1) + 1\nreturn [json.mark]",
        ALONE,
        outcome="0",
        runs=2,
        switched=False,
    ),
    function(
        "state in a file",
        "leaves a file for the next call, or the next tenant",
        "found = os.path.exists('left-too')\nopen('left-too', 'w').close()\nreturn [40.0 * found]",
        "private scratch",
        also=("uid drop",),
        outcome="0",
        runs=2,
        gain=_forty,
    ),
]

FAMILIES = {
    "ends and exceptions": ENDS,
    "values that lie": LIES,
    "the test and its channel": HARNESS,
    "excuses": EXCUSES,
    "what is printed": PRINTED,
    "reward functions": FUNCTIONS,
}
