"""evomerge finds the coefficients with which to merge fine-tuned models. Start reading at `evomerge.loop`."""

__version__ = "0.1.0"
