"""Models for merging: checkpoints, adapters applied to them, matched vocabularies, rearranged blocks."""
