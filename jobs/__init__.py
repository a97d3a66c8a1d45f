"""Programs behind the command `isnet`, which combine isnet and trainplane."""
