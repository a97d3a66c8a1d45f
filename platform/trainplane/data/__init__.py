"""Datasets: packed into shards, ordered, read, and made into batches.

manifest.py describes one, pack/ makes one, verify.py checks its bytes again. order.py (pure) decides which sample comes
at which step for any number of ranks, read/ reads and checks bytes, load/ makes batches.
"""
