"""Evaluators of evomerge: each scores a merged model with one value per example, one evaluator per file."""
