"""The command line `isnet`."""
