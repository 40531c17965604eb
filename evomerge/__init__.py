"""evomerge finds the coefficients with which to merge fine-tuned models. Start reading at `evomerge.search`."""

__version__ = "0.1.0"
