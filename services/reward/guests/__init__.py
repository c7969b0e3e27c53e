"""What runs inside the sandbox: entries that are given a payload, a report and descriptors, and nothing else.

values.py    plain values between two processes that do not trust each other
peer.py      a conversation: ask, be asked, and stand for what lies on the other side
program.py   the rollout's program: as a script, or asked by a tester
tester.py    one test of assertions, in a process that never holds the program
function.py  a user's reward function, called once

Only the standard library is imported here: all of it is in the warm interpreter from which guests are forked.
"""
