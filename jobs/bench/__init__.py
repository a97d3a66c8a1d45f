"""`isnet bench`: every figure that docs/LOG.md states, as a command that measures it anew.

Ratios of two ways of doing one thing, taken in turns in one process or in paired processes: the machine's load then
falls on both. Not covered: tests; a figure never fails one.
"""
