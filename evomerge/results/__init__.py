"""Selection and report: finalists and baselines on the select split, the winner or the front on the report split.

The best of hundreds of candidates scores too high on the examples that it was picked on, which cannot say by how much.
"""
