"""Datasets: packed into shards, ordered, read, and made into batches.

manifest.py describes a dataset, pack/ makes one, verify.py checks all of its bytes again. order.py (pure) decides which
sample comes at which step for any number of ranks, read/ reads and checks bytes, load/ makes batches.
"""
