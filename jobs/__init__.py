"""The programs that put isnet and trainplane together: one module a command, all behind `isnet`."""
