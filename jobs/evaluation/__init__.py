"""Scores of models by hole ratio, and reports of them."""
