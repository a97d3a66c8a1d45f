"""A queue of jobs with priorities and quotas, recorded in the context's store."""
