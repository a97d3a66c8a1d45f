"""The parts of the local stack, one file each, and the processes that they are made of (site.py, process.py)."""
