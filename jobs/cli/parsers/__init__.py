"""What can be typed behind `isnet`, one file a group of commands. Nothing heavy is imported here."""
