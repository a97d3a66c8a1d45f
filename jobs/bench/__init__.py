"""`isnet bench`: commands that measure the figures of docs/LOG.md.

Two ways of doing one thing run alternately in one process or in paired processes, so that the machine's load falls on
both, and their ratio is reported. Not covered: tests; a figure never fails one.
"""
