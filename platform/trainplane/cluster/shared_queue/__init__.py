"""Queue of jobs with priorities and quotas, in the store."""
