"""Recipes: what is merged and how, as objects and as files."""

from evomerge.recipe.recipe import (
    DTYPES,
    Input,
    Merge,
    Recipe,
    RecipeError,
    Slice,
    TokenRow,
    Vocabulary,
)

__all__ = [
    "DTYPES",
    "Input",
    "Merge",
    "Recipe",
    "RecipeError",
    "Slice",
    "TokenRow",
    "Vocabulary",
]
