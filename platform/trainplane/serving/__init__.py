"""Registered models under traffic.

traces  records of answers and votes, on disk until MLflow has them
"""
