"""Graders that ask somebody else over HTTP: addresses that tenants name, answers that nobody vouches for.

client.py   one bounded, unredirected question
keys.py     secrets of this server, and where they may be sent
remote.py   the runner of `remote`
judge.py    the runner of `llm_judge`
rubric.py   the message to a judge
verdict.py  the number in its answer, found where a pattern cannot hold up the service
"""
