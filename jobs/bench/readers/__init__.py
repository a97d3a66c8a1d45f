"""Programs that read a packed set, one for each reader.

Ours, its peers, and bare decoding. Every program is a separate process
(`python -m jobs.bench.readers.NAME`), so that a peer that cannot live beside our
packages may run in its own environment; the common part (serving.py) needs numpy, Pillow, torch and psutil alone. All
measure themselves alike: wall time, and processor time of the process and all its children.
"""
