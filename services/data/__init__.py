"""Datasets: uploaded in parts, kept as immutable versions, derived, paged through, and rollouts as datasets.

At the edge and on the bus:

app.py         composition root
settings.py    what the service is told by its environment
api.py         routes that make versions: upload, derive, export
catalogue.py   routes of what there is: lists, pages of rows, files, deletion
commands.py    what the commands carry
worker.py      makes versions, ends uploads, collects files, has RL runs driven
datasets.py    which versions there are
rollouts.py    a run's rollouts and scores, from facts
jail.py        runs what opens files in a process of its own
child.py       that process
rl             RL runs that need no client, in a package of their own

Rows, without any bus:

limits.py      what a file may cost
source.py      an upload's bytes: parts as one file, unpacked, cut into lines
shapes.py      the types that rows have
rows.py        batches of rows, and what holds for each
jsonl.py       rows from JSON lines
csv_rows.py    rows from CSV
parquet.py     rows from Parquet files
ingest.py      from a file to a version
digest.py      the content hash
columns.py     statistics
summary.py     what is known of a version's file
version.py     writes and reads that file
pages.py       rows by cursor
keys.py        what makes rows equal
conditions.py  filters
derive.py      versions from versions
"""
