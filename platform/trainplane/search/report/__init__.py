"""Leaderboard, charts and importance of settings."""
