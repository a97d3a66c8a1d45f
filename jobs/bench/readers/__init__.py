"""One program for each way of reading a packed set: ours, its peers, and bare decoding from memory.

Every program is a process of its own (`python -m jobs.bench.readers.NAME`), so that a peer that cannot live beside
our packages may run in an environment of its own; what is common (serving.py, view.py) needs numpy, Pillow, torch and
psutil alone. They measure themselves alike: wall time, and processor time of the process and all its children.
"""
