"""Events of runs, searches and models for people and programs."""
