"""GLCIC, globally and locally consistent completion (Iizuka et al. 2017)."""
