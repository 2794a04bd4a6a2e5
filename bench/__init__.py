"""Benchmarks: every number this project states, measured beside its peers in one process (``dream-accel bench``).

Installed as ``dream_accel.bench``. :mod:`harness` times and writes, one file per kernel says what is compared, and
:mod:`present` turns a CSV into a table or a figure.
"""
