"""Leaderboard, charts and importance of a search."""
