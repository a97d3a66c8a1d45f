"""Datasets: packed into shards, ordered for any number of ranks, read with every byte checked, made into batches.

manifest.py says what a dataset is, pack.py makes one, verify.py checks all of it again. order.py (pure) says which
sample is met when, fetch.py reads bytes, parts.py and loader.py make batches of them.
"""
