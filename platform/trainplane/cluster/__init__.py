"""Clusters: contexts, sessions of Ray, jobs, and a local stack."""
