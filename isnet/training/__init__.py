"""What the GAN's training step needs beside networks and losses."""
