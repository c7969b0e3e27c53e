"""Joins what waits in NATS to a platform that scales on open requests: opens as many activations as there is work.

plan.py         how many activations to open: pure functions
backlog.py      how much work waits, read from the streams
post.py         one activation: a request that stays open
service.py      one service: hears of work, looks, opens activations
opener.py       makes consumers for the service that may make none
verdict.py      what becomes of work for a service that cannot start
settings.py     which services there are, and who runs them
dispatcher.py   all services of one installation
__main__.py     the dispatcher as a process
"""
