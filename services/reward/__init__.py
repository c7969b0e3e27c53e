"""Scores batches of rollouts on CPUs: graders in processes that can be killed, and the service around them.

graders/     what each grader computes
sandbox/     confines code that nobody trusts
child.py     a process that grades, within limits of its own
process.py   such a process as its parent sees it
shard.py     items on their way to a final score
pool.py      keeps the processes, enforces time, tries again what was no fault of the rollout
commands.py  a request, cut into commands
worker.py    from the queue into the pool and back
api.py       the HTTP edge
settings.py  what the service is told by its environment
app.py       composition root
"""
