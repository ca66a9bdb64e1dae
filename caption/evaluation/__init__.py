"""Scores of generated captions, and of where the model looked."""
