"""Scores batches of rollouts on CPUs: graders in processes that can be killed, and the service around them.

graders/   what each grader computes
child.py   a process that grades, within limits of its own
pool.py    keeps such processes, enforces time, tries again what was no fault of the rollout
"""
