"""The methods that ISNet is compared with.

Each folder holds one method: its networks, later its losses and its step. Networks take the picture as the method wants
it; ranges, fills and sizes stand in their docstrings. Written from the papers and from measured figures.
"""
