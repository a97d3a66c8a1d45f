"""One module for each command of `isnet`."""
