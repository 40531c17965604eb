"""`python -m experiments.real_data FOLDER`: public examples for `experiments.real_models`, from the Hugging Face hub.

SST-2 (Socher et al., 2013), AG News (Zhang et al., 2015) and TREC's kinds of questions (Li and Roth, 2002).
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Examples of each task to score on; those to train on have other prompts.
N_EVALUATION = 500
#: Longer prompts are left out: they take more time, and say no more.
LONGEST = 160


@dataclass(frozen=True)
class Source:
    """A data set. splits: to train on and to score on. prompt: of one row. choices: of the labels, in their order."""

    name: str
    splits: tuple[str, str]
    label: str
    prompt: Callable[[Mapping[str, Any]], str]
    choices: tuple[str, ...]


def _headline(text: str) -> str:
    """Return the title that a news item begins with; the agency or a dash ends it."""
    return text.split(" (")[0].split(" - ")[0].strip()


SOURCES = {
    "sst2": Source(
        "stanfordnlp/sst2",
        ("train", "validation"),
        "label",
        lambda row: f"Review: {row['sentence'].strip()}\nSentiment:",
        (" negative", " positive"),
    ),
    "agnews": Source(
        "fancyzhx/ag_news",
        ("train", "test"),
        "label",
        lambda row: f"Headline: {_headline(row['text'])}\nTopic:",
        ("World", "Sports", "Business", "Technology"),
    ),
    "trec": Source(
        "CogComp/trec",
        ("train", "test"),
        "coarse_label",
        lambda row: f"Question: {row['text'].strip()}\nExpected answer:",
        (" abbreviation", " thing", " description", " person", " place", " number"),
    ),
}


def write(source: Source, rows: Mapping[str, Iterable[Mapping[str, Any]]], folder: Path, name: str) -> None:
    """Write NAME.jsonl, to score on, and NAME.train.jsonl. rows: of each of the source's splits."""
    train, held_out = source.splits
    scored = dict(list(_examples(source, rows[held_out]))[:N_EVALUATION])
    choices = list(source.choices)
    lines = [{"question": prompt, "choices": choices, "answer": answer} for prompt, answer in scored.items()]
    learned = {prompt: answer for prompt, answer in _examples(source, rows[train]) if prompt not in scored}
    answers = [{"prompt": prompt, "answer": f" {choices[answer].strip()}"} for prompt, answer in learned.items()]
    folder.mkdir(parents=True, exist_ok=True)
    for file, found in ((f"{name}.jsonl", lines), (f"{name}.train.jsonl", answers)):
        (folder / file).write_text("".join(f"{json.dumps(line)}\n" for line in found), encoding="utf-8")


def _examples(source: Source, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    for row in rows:
        prompt, answer = source.prompt(row), row[source.label]
        if len(prompt) <= LONGEST and answer >= 0:
            yield prompt, answer


def download(folder: Path, say: Callable[[str], None]) -> None:
    """Download the data sets whose files are not in the folder yet."""
    import datasets

    for name, source in SOURCES.items():
        if not (folder / f"{name}.train.jsonl").exists():
            say(f"Downloading {source.name}")
            write(
                source,
                {split: datasets.load_dataset(source.name, split=split) for split in source.splits},
                folder,
                name,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    download(parser.parse_args().folder, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
