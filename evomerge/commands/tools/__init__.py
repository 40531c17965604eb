"""Commands that prepare models for a merge, repair one, or learn from data how to merge: no search."""
