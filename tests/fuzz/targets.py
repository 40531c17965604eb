"""Readers under test: each takes any bytes as a file, and reads them or refuses them with an error of ours."""

import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from evaluators import _strict_yaml as strict_yaml
from evaluators._examples import read_json_lines
from evaluators._lm_eval_files import Reader
from evaluators._lm_eval_sources import _stock_index, find
from evomerge.config import load_config
from evomerge.config.stages import load_stages
from evomerge.errors import exit_code
from evomerge.merging.mergekit.read import read_mergekit
from evomerge.merging.models.header import read_header
from evomerge.merging.models.shards import INDEX, read_folder
from evomerge.recipe.file import read_merge
from evomerge.study import Study
from evomerge.study.follow import Follower
from evomerge.study.lines import FILE

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).with_name("corpus")

#: Texts that mutations insert: the grammar of the formats, and numbers at the edges of types.
TOKENS = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b'"',
        b"\n",
        b"- ",
        b"  ",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!function x.y",
        b"# ",
        b"---\n",
    ),
    *(
        b"null",
        b"true",
        b"NaN",
        b"1e999",
        b"-1",
        b"0",
        b"18446744073709551616",
        b"9223372036854775807",
        b"1e-3",
        b"bits",
    ),
    *(
        b"\\ud800",
        b"\x00",
        b"\x1b[31m",
        b"\xff",
        b"\xe2\x80\xa8",
        b"../",
        b"/etc/passwd",
        b"/dev/zero",
        b"F32",
        b"BF16",
    ),
    *(
        b"include: ",
        b"task: ",
        b"base: ",
        b"data_offsets",
        b"__metadata__",
        b'"crc32":"',
        b"f64:",
        b"f32:",
        b"%s",
        b"{{x}}",
    ),
)


class Finding(AssertionError):
    """A reader that returned other data than it should have."""


@dataclass(frozen=True)
class Target:
    """A reader. run: reads a file with the bytes, in a folder of its own. seeds: valid files."""

    run: Callable[[bytes, Path], None]
    seeds: Callable[[], Iterator[bytes]]


def check(target: Target, data: bytes, folder: Path) -> None:
    """Read any bytes; raises what a user must never see: an error without an exit code of ours."""
    try:
        target.run(data, folder)
    except Exception as error:
        if exit_code(error) is None:
            raise
        if not str(error).strip():
            raise Finding(f"{type(error).__name__} without a message") from error


def _header(data: bytes, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(data)
    found = read_header(file)
    try:
        with safe_open(file, framework="np") as other:
            names = sorted(other.keys())
    except SafetensorError as error:
        raise Finding(f"safetensors refuses what was read: {error}") from error
    if names != sorted(found):
        raise Finding(f"safetensors finds {names}, not {sorted(found)}")


def _headers() -> Iterator[bytes]:
    yield save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16)})
    yield save({"w": np.zeros((0, 3), np.float32)}, metadata={"format": "pt"})


def _index(data: bytes, folder: Path) -> None:
    for shard, name in (("a.safetensors", "a"), ("b.safetensors", "b")):
        (folder / shard).write_bytes(save({name: np.zeros(2, np.float32)}))
    (folder / INDEX).write_bytes(data)
    read_folder(folder)


def _indices() -> Iterator[bytes]:
    yield json.dumps(
        {"metadata": {"total_size": 16}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    ).encode()


def _yaml(data: bytes, folder: Path) -> None:
    for document in strict_yaml.load_all(data.decode("utf-8", "replace")):
        again = strict_yaml.load(strict_yaml.dump(document.data)).data
        if repr(again) != repr(document.data):
            raise Finding(f"{document.data!r} came back as {again!r}")


def _yamls() -> Iterator[bytes]:
    yield b"a: &x {b: [1, 2.5, -.inf, null, true], 'c d': \"e\\n\"}\nf:\n  <<: *x\n  g: |\n    text\n"
    yield b"- 1e-3\n- 0x1f\n- ~\n- 'it''s'\n---\nx: 1\n"


def _search_file(data: bytes, folder: Path) -> None:
    file = folder / "search.yaml"
    file.write_bytes(data)
    load_stages(file)
    load_config(file)


def _search_files() -> Iterator[bytes]:
    for path in sorted(ROOT.glob("experiments/0*/*.yaml")):
        yield path.read_bytes()


def _recipe(data: bytes, folder: Path) -> None:
    file = folder / "recipe.yaml"
    file.write_bytes(data)
    read_merge(file)


def _recipes() -> Iterator[bytes]:
    yield (
        b"evomerge: 1\nbase: models/base\ninputs: {a: models/a, b: {path: models/b, revision: main}}\nmethod: ties\n"
        b"options: {}\ngroups: {one: [x, y], two: [z]}\n"
        b"coefficients: {weight: {one: [0.5, 1], two: {a: 1, b: 2}}, density: 0.5}\n"
    )
    yield (
        b"evomerge: 1\nbase: m\ninputs: [m, n]\nmethod: passthrough\nslices:\n"
        b"- {blocks: 2, inputs: {m: 0}}\n- {blocks: 1, inputs: {n: 1}, base: {m: 1}}\n"
    )


def _mergekit(data: bytes, folder: Path) -> None:
    file = folder / "mergekit.yml"
    file.write_bytes(data)
    for lenient in (False, True):
        read_mergekit(file, lenient=lenient)


def _mergekits() -> Iterator[bytes]:
    for path in sorted(ROOT.glob("tests/conformance/yaml/*.yml"))[::6]:
        yield re.sub(rb"\{(\w+)\}", rb"models/\1", path.read_bytes())


def _json_lines(data: bytes, folder: Path) -> None:
    file = folder / "lines.jsonl"
    file.write_bytes(data)
    for line in read_json_lines(file):
        if not isinstance(line.fields, dict):
            raise Finding(f"{line.where} is {line.fields!r}")
        line.prompt(None, "{question}: {choices}")


def _lines() -> Iterator[bytes]:
    yield b'{"question": "1 + 1?", "answer": "2", "choices": ["2", "3"]}\n{"question": "\xc3\xa9", "choices": []}\n'
    yield b'\xef\xbb\xbf{"prompt": "x\\u2028", "n": 1.5e3}\r\n\r\n{"prompt": null}\r\n'


def _lm_eval(data: bytes, folder: Path) -> None:
    (folder / "common.yaml").write_bytes(b"dataset_path: json\noutput_type: generate_until\n")
    (folder / "task.yaml").write_bytes(data)
    Reader().read(folder / "task.yaml")
    find(str(folder / "task.yaml"), str(folder), {}, allow_code=False)


def _lm_evals() -> Iterator[bytes]:
    _stock_index()  # takes seconds, once
    yield (
        b"task: pick\ninclude: common.yaml\ntest_split: test\ndoc_to_text: 'Q: {{question}}'\n"
        b"doc_to_choice: '{{choices}}'\n"
        b"doc_to_target: answer\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\ntag: [own]\n"
    )
    yield (
        b"group: both\ntask: [{task: pick, num_fewshot: 2}, {group: inner, task: [pick]}, other]\n"
        b"metadata: {version: 1.0}\n"
    )
    yield b"task: sum\nprocess_results: !function utils.f\ndataset_kwargs: {data_files: {test: x.jsonl}}\n"


def _ledger(data: bytes, folder: Path) -> None:
    (folder / FILE).write_bytes(data)
    with suppress(Exception):  # judged below; a follower may be handed the same file
        Follower(folder).poll()
    read = _all_of(Study.read(folder))
    study = Study.open(folder)
    study.close()
    if _all_of(Study.read(folder))[: len(read)] != read:
        raise Finding("a study that was opened for writing has other contents than before")


def _all_of(study: Study) -> list[object]:
    return [
        (
            entry.trial.number,
            entry.losses,
            [(task, scores.example_ids) for task, scores in entry.outcome.scores.items()],
        )
        for entry in study.ended
        if entry.outcome is not None
    ]


def _ledgers() -> Iterator[bytes]:
    for path in sorted(ROOT.glob("tests/evomerge/study/schema_*.jsonl")):
        yield b"".join(path.read_bytes().splitlines(keepends=True)[:12])


def _records(data: bytes, folder: Path) -> None:
    """Give every line the checksum that it should have, so that what is in the records is reached."""
    lines = []
    for line in data.splitlines():
        body = line.partition(b",")[2]
        lines.append(b'{"crc32":"%08x",%b\n' % (zlib.crc32(body), body))
    _ledger(b"".join(lines), folder)
    Follower(folder).poll()


TARGETS = {
    "header": Target(_header, _headers),
    "index": Target(_index, _indices),
    "yaml": Target(_yaml, _yamls),
    "search_file": Target(_search_file, _search_files),
    "recipe": Target(_recipe, _recipes),
    "mergekit": Target(_mergekit, _mergekits),
    "json_lines": Target(_json_lines, _lines),
    "lm_eval_task": Target(_lm_eval, _lm_evals),
    "ledger": Target(_ledger, _ledgers),
    "ledger_records": Target(_records, _ledgers),
}
