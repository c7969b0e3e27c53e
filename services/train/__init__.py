"""Forward, backward, optimizer step and export of weights, for many runs of one base model at once.

At the edge:

app.py         composition root
settings.py    what the service is told by its environment
register.py    makes a base model known, or forgotten
api.py         an HTTP request becomes a command under its number

From a run's log to its results:

worker.py      the loop: a round takes a turn of every run that has work, and all share passes
held.py        a run as the trainer holds it: where its log stands, and its state
places.py      who has a place in memory
room.py        how many fit
holding.py     takes leases and lets them go
turns.py       a run's turn: the next entries of its log, applied
commands.py    what each command does to the state
exports.py     weights leave and enter a run
together.py    forward-backward commands of many runs in shared passes
results.py     what a command came to
writes.py      what is written back, in the background, under the lease
snapshotter.py when snapshots are taken
snapshots.py   how one is written, and what it lets go of
gaps.py        numbers that nobody sends

Numbers, without any bus:

engine.py      the core: many runs on one base model
packing.py     which datums go into which pass
passes.py      one pass, forward and backward
optimizer.py   AdamW
run.py         the state of one run
"""
