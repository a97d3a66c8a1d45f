"""Arguments of all commands, without heavy imports."""
