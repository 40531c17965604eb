"""Models as merging sees them: checkpoints, adapters on them, other vocabularies, blocks of several."""
