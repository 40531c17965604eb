"""The blocks of code in the documents, with what marks say that they need."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.test_documents import ROOT, read

#: What a block may be marked to need, in the line before it: `<!-- needs: hub -->`. Such blocks are not run by tests.
NEEDS = {
    "gpu": "a GPU",
    "hub": "the Hugging Face hub",
    "packages": "a registry of packages",
    "a cluster": "machines, or another program that runs jobs on them",
    "time": "minutes to hours, or what `make demo` has made",
}
_BLOCK = re.compile(
    r"(?:^<!-- needs: (?P<needs>[\w ]+) -->\n)?"
    r"(?:^```(?P<language>\w*)\n(?P<fenced>.*?)^```$|(?P<indented>(?:^ {4}[^\n]*\n)+))",
    re.MULTILINE | re.DOTALL,
)
_NOTHING = re.compile(r"<!-- needs: [\w ]+ -->\n(?!```| {4})")


@dataclass(frozen=True)
class Block:
    """A block of code. language: of a fence; `shell` for indented lines. needs: its mark; empty without one."""

    page: Path
    line: int
    language: str
    text: str
    needs: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block; those that end in a backslash are joined."""
        lines = (line.strip() for line in self.text.replace("\\\n", " ").splitlines())
        return [line for line in lines if line]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a document in order."""
    text = read(page)
    assert not _NOTHING.search(text), f"{page}: a mark without a block"
    return [
        Block(
            page,
            text[: found.start("fenced" if found["indented"] is None else "indented")].count("\n") + 1,
            "shell" if found["indented"] is not None else found["language"],
            found["fenced"] or found["indented"] or "",
            found["needs"] or "",
        )
        for found in _BLOCK.finditer(text)
    ]
