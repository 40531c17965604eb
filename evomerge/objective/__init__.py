"""The objective: conversion between scores and losses, its specification, and the displayed score."""

from evomerge.objective.floor import Floor
from evomerge.objective.objective import FloatArray, Kind, NonFiniteScore, NoReference, Objective

__all__ = [
    "FloatArray",
    "Floor",
    "Kind",
    "NoReference",
    "NonFiniteScore",
    "Objective",
]
