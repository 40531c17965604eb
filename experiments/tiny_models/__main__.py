"""`python -m experiments.tiny_models --out models`: make the models and tasks of the demo."""

import argparse
import time
from pathlib import Path

import torch
from transformers.utils import logging

from .prepare import prepare
from .sets import DEMO


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tiny_models", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder to make them in (models)")
    out: Path = parser.parse_args().out
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # more gain little at this size, and lose a lot where other programs run
    start = time.monotonic()
    prepare(out, DEMO, say=lambda line: print(f"  {line}", flush=True))
    names = ", ".join(DEMO.experts)
    print(f"{out}: base and experts {names}; tasks in data/ and lm_eval/ ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
