"""Seeded simulations of a whole fleet, and what must be true of each afterwards: the promise that no job is lost.

One run takes a seed: two or three real agents with all their loops, a broker and engines in memory, a handful of jobs,
and faults between any two steps of a job's life, all in virtual time. The same seed gives the same run, whatever the
machine does: `python -m tests.sim 4711` shows it event by event.
"""
