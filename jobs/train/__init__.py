"""Runs of the ISNet GAN: plan, resources, summary."""
