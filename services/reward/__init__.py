"""Scores batches of rollouts on CPUs: graders in processes that can be killed, and the service around them.

runner.py    what scores items by one grader, and how often it tries
scorer.py    which runner is asked, and what is not asked twice
combine.py   several graders' scores as one
versions.py  what a score's grader was
graders/     what each grader of ours computes
code/        graders that run code: programs on tests, users' functions
outside/     graders that ask somebody else
sandbox/     processes that can do next to nothing
guests/      what runs inside it
child.py     a process that grades, within limits of its own
process.py   such a process as its parent sees it
shard.py     items on their way to a final score
pool.py      keeps the processes, enforces time, tries again what was no fault of the rollout
functions.py users' functions, as records
pins.py      which version of a function a request means
worker.py    from the queue to who does it, and back
api.py       the HTTP edge
settings.py  what the service is told by its environment
app.py       composition root
"""
