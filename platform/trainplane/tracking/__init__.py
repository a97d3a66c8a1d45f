"""Runs in MLflow, recorded without ever making training wait.

A training records into a spool on its own disk (`spool`); a process beside it sends the spool to MLflow.
"""
