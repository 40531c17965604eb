"""Fuzzing of everything that reads files of others: `make fuzz`. What it finds stays in `corpus`, and is tested."""
