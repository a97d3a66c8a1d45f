"""Events of runs, searches and models, sent to people and programs."""
