"""AOT-GAN (Zeng et al., TVCG 2022)."""
