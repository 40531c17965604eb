"""Recipes: models, method and coefficients of a merge, as objects and as files."""

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
