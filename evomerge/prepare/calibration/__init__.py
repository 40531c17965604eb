"""Statistics from data of a model: what a merge method weighs, or meets, the inputs with."""
