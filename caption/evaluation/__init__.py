"""Scores of generated captions and of attention."""
