"""EdgeConnect (Nazeri et al. 2019)."""
