"""Scores of generated captions and of the attention to their words."""
