"""Arguments of all commands, one module a group.

Nothing heavy is imported here.
"""
