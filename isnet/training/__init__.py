"""Parts of the GAN's training step beside networks and losses."""
