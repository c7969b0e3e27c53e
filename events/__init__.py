"""The arrows of Rekindle: how services hand each other work and news.

What is said, and how it is called:

catalog.py      every command and fact: type, payload, result, subject
envelope.py     CloudEvents 1.0 and their NATS binding
ids.py          identifiers that clients see
names.py        the only maker of subjects, and of names of streams, consumers and services
blob_keys.py    the only maker of keys of the blob store
confined.py     what a service that runs code of users may touch
failure.py      what went wrong, and whose fault it is

NATS:

retry.py        what counts as no answer, and trying again
connection.py   the connection: it comes back by itself, and what is said on it unstored
reads.py        reading streams back
bus.py          the same connection with all of JetStream: streams, consumers, append, purge
streams.py      which streams there are and what each promises
pull.py         continuous pull from a consumer

A training run is a log:

commands.py     commands as edges make them
weights.py      what saving and loading weights carries
runlog.py       a training run as a log: commands in, read back in order
order.py        the order of a run's commands, a pure function
lease.py        who may write a run's results, and from where its log is replayed
liveness.py     which replicas live
idle.py         when somebody looks after a session whose client may have died
checkpoints.py  which adapters exist, and where their files lie

Work queues, and results of everything:

sampling.py     what a sampling command carries, and how it is queued
samplers.py     the end of a sampler, with all that it has drawn
scoring.py      what a scoring command carries, and how it is queued
grading.py      what every edge checks of a grader
shards.py       a request cut into shards, and joined again
queues.py       what a work queue is
worker.py       work from a queue: budget, heartbeats, a handler
outcomes.py     what becomes of it: results, redelivery, dead letters
tenants.py      a queue's consumers, one for each tenant that has work
shares.py       how a worker's budget is divided among tenants
futures.py      from a request id to its one result

News:

facts.py        news for anyone
triggers.py     which facts triggers have not seen yet

What is kept beside events:

records.py      small named facts of the world: sessions, runs, samplers, models
record_store.py reads and writes them
blobs.py        what is too large for an event
s3_blobs.py     the same in a bucket of S3
s3_answers.py   what that says when it does not do as asked
blob_cache.py   local copies of what lies in a bucket
claims.py       a payload that is in the store instead of its event, and how long it lasts
range_file.py   a file of the store, read in place
stored_file.py  an answer that is a file of the store
model_files.py  a base model's files: a folder, the hub, or a bucket

HTTP:

edge.py         what every HTTP edge shares
keys.py         who holds which API key
admission.py    who may come in at an edge, and as whom
quotas.py       what a tenant may have at once
outside.py      which addresses are asked on behalf of a tenant
app.py          a service's application
serve.py        an application as a process

Replicas that follow work, asked for by the dispatcher (a package of its own):

activity.py     whether a replica shall take work, and whether it has some
activation.py   the request that a replica works under, as an event
activate.py     its HTTP side
platform.py     how the services fare, by who runs them
knative.py      the same, by the records of a Knative cluster
revisions.py    what these records say
notify.py       what a process tells its parent

Every process:

settings.py     what every service is told by its environment
trace.py        which trace the work at hand belongs to
logs.py         structured logging
metrics.py      what is counted
scrape.py       where metrics are read, and a process is asked for its life
otel.py         spans to a collector
observe.py      metrics and spans of a process, where they are wanted
tasks.py        several tasks as one, and ending them for good
"""
