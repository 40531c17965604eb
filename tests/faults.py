"""The faults that a search must survive, and the tests that provoke them: `python -m tests.faults` writes the table.

A test names its row with `@pytest.mark.fault("F17", "how it is provoked", "what is seen")`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "reliability.md"


@dataclass(frozen=True)
class Row:
    """A fault. promise: what a search does then. limits: what of that is not so, or not tested, and why."""

    fault: str
    promise: str
    limits: str = ""


@dataclass(frozen=True)
class Provoked:
    """A test that provokes a fault. file: below the root."""

    row: str
    how: str
    seen: str
    file: Path
    test: str


GROUPS = {
    "Something dies": ("F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9"),
    "Something hangs, or memory or the disk runs out": ("F10", "F11", "F12", "F17", "F18"),
    "Scores and weights are wrong": ("F13", "F14", "F15", "F16"),
    "Models are damaged, unlike or hostile": (
        "F19",
        "F20",
        "F21",
        "F22",
        "F23",
        "F24",
        "F25",
        "F26",
        "F27",
        "F28",
        "F29",
    ),
    "Files of users and tasks are hostile": ("F30", "F31", "F32"),
    "Several processes, clocks and signals": ("F33", "F34", "F35", "F36", "F37"),
    "Networks and services": ("F38", "F39", "F41"),
    "Versions, secrets, terminals and outputs": ("F40", "F42", "F43", "F44"),
}

ROWS = {
    "F1": Row("The driver is killed before the study exists", "Nothing is left that a new start would trip over."),
    "F2": Row(
        "The driver is killed after a proposal was recorded, before it ran", "The same candidate runs on resume."
    ),
    "F3": Row(
        "The driver is killed while candidates are scored",
        "Recorded results stay. With one worker, the search proposes what it would have proposed undisturbed.",
    ),
    "F4": Row(
        "The driver is killed in the middle of a write to the ledger",
        "The incomplete end is cut off and kept beside it; the ledger is read and continued.",
    ),
    "F5": Row("An export is killed", "The target is absent or as it was; the next export cleans up and says so."),
    "F6": Row(
        "The machine loses power",
        "What was acknowledged is on the disk: files and folders are synced before anything depends on them.",
        "Power is not cut: the tests record the order of writes and syncs, and take away what was not synced.",
    ),
    "F7": Row(
        "A worker is killed or crashes",
        "Its trial runs again on another worker, at most twice; the cause is recorded.",
        "With `executor: serial` there is no other process: the search ends with a stack, and resumes.",
    ),
    "F8": Row(
        "A node of the cluster is lost or preempted", "Its trials run elsewhere; a preemption counts against none."
    ),
    "F9": Row(
        "The head of the cluster is lost", "The study is recorded as paused and the search ends with 5, resumable."
    ),
    "F10": Row(
        "A candidate hangs",
        "It is killed after ten times the median, never before ten minutes, and tried once more; the message names the "
        "stage, its usual time, and where the code was.",
        "The stage is known for workers on the driver's machine. `executor: serial` refuses `trial_timeout`: a "
        "candidate in the driver's own process cannot be stopped.",
    ),
    "F11": Row(
        "The GPU's memory runs out",
        "Batches are halved and the candidate is scored again; if that fails too, the search pauses with advice.",
        "Errors of CUDA are injected; no test fills a real GPU.",
    ),
    "F12": Row(
        "The machine's memory runs out",
        "The trial runs again; after two such deaths half of the workers go, once. A `MemoryError` is treated as F11.",
        "Workers die of a real SIGKILL; that the kernel sent it is injected.",
    ),
    "F13": Row("A score is NaN or infinite", "A failure with a name; no such number reaches an optimizer."),
    "F14": Row("Merged weights are NaN or infinite", "The tensor is named before anything is scored or written."),
    "F15": Row(
        "A task has no such metric",
        "Refused before the first candidate.",
        "Scores out of their range are noticed where one is declared: by `score_range` of `callable`, for functions of "
        "one's own. The other evaluators compute theirs.",
    ),
    "F16": Row(
        "Coefficients change nothing", "The canary ends the search before it begins, and names what is the same."
    ),
    "F17": Row(
        "The disk of the ledger is full", "Running results go into space kept for them; the study pauses with 5."
    ),
    "F18": Row("The disk of an export is full", "Refused beforehand, or undone, with the bytes that are free."),
    "F19": Row("A model changed since the study began", "Every command that would use it ends with 3 and both hashes."),
    "F20": Row("A weight file is cut off, a pointer or a web page", "Refused; the message says what it is."),
    "F21": Row(
        "A model changes while the search runs", "What was computed from it is not recorded; the search pauses."
    ),
    "F22": Row("Models differ in shapes", "Refused, with their number, examples and the likely cause."),
    "F23": Row("A model lacks tensors or has others", "Refused; nothing is ever filled with random numbers."),
    "F24": Row("Tokenizers or vocabularies differ", "Said, or refused with the ways out."),
    "F25": Row("Weights are quantized or packed", "Refused by name; mixed float types are merged."),
    "F26": Row("An index or a link leads out of the folder, or to a device", "Refused as a possible attack."),
    "F27": Row(
        "The header of a weight file is hostile", "Refused within bounds of time and memory, and printed escaped."
    ),
    "F28": Row(
        "Weights are a pickle",
        "Refused, and never loaded.",
        "There is no command that converts one, since reading it is the risk: the message says how, for those who "
        "trust the file.",
    ),
    "F29": Row("A model brings code of its own", "Refused; nothing runs."),
    "F30": Row("A YAML file is a bomb, has tags or keys twice", "Refused with its line."),
    "F31": Row(
        "A task runs code",
        "Refused with its line unless `allow_code` is set.",
        "With `allow_code`, the code has the worker's rights: a sandbox that also holds against code written to leave "
        "it is the job of a container; run such a search in one without a network.",
    ),
    "F32": Row("A template never ends or fills the memory", "Rendered first in a child process with limits; refused."),
    "F33": Row("A study is resumed with another search", "Refused, with the differences; nothing is changed."),
    "F34": Row(
        "Two drivers run one study",
        "The second ends with 4; one that lost the lock cannot write.",
        "On one machine; locks over NFS are as good as its server's.",
    ),
    "F35": Row(
        "The clock is stepped", "Budgets count monotonic time; order is by number. Only `until` follows the clock."
    ),
    "F36": Row(
        "Ctrl-C, once and twice",
        "Once: running candidates are finished, and on a terminal it asks; twice: at once. Resumable.",
    ),
    "F37": Row("SIGTERM, or the terminal is closed", "The ledger is closed and the search ends at once, resumable."),
    "F38": Row(
        "The hub is down, or a model is gated",
        "One sentence that says what to do, before anything is spent.",
        "No server is asked: its answers are injected. There are no retries beside those of the hub's own library.",
    ),
    "F39": Row("A tracker is down or hangs", "The search is not delayed; what is missing is sent on resume."),
    "F40": Row("A study of another version", "Earlier schemas are read and resumed; newer ones are refused."),
    "F41": Row(
        "Ray can be reached from elsewhere",
        "A local one listens on this machine only, with a token; an open cluster is joined with `ray_insecure` only.",
    ),
    "F42": Row(
        "An error or an export contains secrets", "Tokens and home folders are masked wherever they are written."
    ),
    "F43": Row("A terminal is narrow, has no colors or no Unicode", "It is written for what it can show."),
    "F44": Row(
        "An output exists, is an input or cannot be written", "Refused or replaced as a whole; modes follow the umask."
    ),
}


def provoked() -> Iterator[Provoked]:
    """Yield all marked tests, by file and line, read without importing them."""
    for path in sorted(ROOT.glob("tests/**/*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.fault(" not in text or path == Path(__file__):
            continue
        for node in ast.walk(ast.parse(text)):
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    row, how, seen = (ast.literal_eval(word) for word in mark.args)
                    yield Provoked(row, how, seen, path.relative_to(ROOT), node.name)


def page() -> str:
    """Return the documentation: every fault, what is promised, how it is provoked and what was seen."""
    found = sorted(provoked(), key=lambda each: (int(each.row[1:]), str(each.file), each.test))
    lines = [
        "# Reliability",
        "",
        "What goes wrong at night, and what a search does then. Every row is provoked by the tests that it names; this",
        "page is generated from them (`python -m tests.faults`), and a test fails if it is not current.",
        "",
        "<!-- needs: time -->",
        "    make test     # nearly all of these tests",
        "    make slow     # repeated kills, lost clusters",
        "    make cluster  # clusters of several nodes that come and go",
        "    make soak     # an hour of searches with a random fault every ten seconds",
        "    make fuzz     # an hour of mutated files for every reader",
        "",
        "How a search ends is in [exit codes](running.md#exit-codes); clusters are in [clusters](clusters.md#faults).",
        "",
    ]
    for group, numbers in GROUPS.items():
        lines += [f"## {group}", "", "| fault | what happens | provoked | seen |", "|---|---|---|---|"]
        for number in numbers:
            row = ROWS[number]
            tests = [each for each in found if each.row == number]
            promise = row.promise + (f" *{row.limits}*" if row.limits else "")
            for index, each in enumerate(tests):
                link = f"[test](../{each.file})"
                first = f"| {number}. {row.fault} | {promise} |" if index == 0 else "| | |"
                lines.append(f"{first} {each.how} ({link}) | {each.seen} |")
            if not tests:
                lines.append(f"| {number}. {row.fault} | {promise} | | |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    TABLE.write_text(page(), encoding="utf-8")
