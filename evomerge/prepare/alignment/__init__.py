"""Before or after a merge: hidden units matched to another model's, their statistics repaired."""
