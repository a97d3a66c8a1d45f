"""A search at work: driver, journal, trials on Ray Tune."""
