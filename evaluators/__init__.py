"""Evaluators of evomerge: from a merged model to one score per example. One evaluator, one file."""
