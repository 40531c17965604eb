"""The searches of published settings: checked as far as that goes without their models and data."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import transformers
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.config import load_stages
from experiments.tiny_models.train import character_tokenizer
from tests.evomerge.merging.folders import HEADS, SMALL, cached
from tests.test_documents import ROOT, checked

FOLDER = ROOT / "experiments/08-paper-scale"
FILES = sorted(FOLDER.glob("*.yaml"))
#: The architecture of each base, and the models that are tuned from it.
CLASSES = {
    "mergebench-llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mergebench-gemma": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    "sakana": (transformers.MistralConfig, transformers.MistralForCausalLM),
}
#: Data of the tasks by name, splits and configuration; a row for each.
DATA: dict[tuple[str, str, str], dict[str, Any]] = {
    ("MergeBench/coding_val", "train", "default"): {"instruction": "Write {}.", "response": "print({})"},
    ("MergeBench/safety_val", "train", "default"): {"prompt": "Do {}.", "response": "I will not do {}."},
    ("SakanaAI/gsm8k-ja-test_250-1319", "test", "default"): {"question": "{} + 0 = ?", "answer_number": "{}"},
    ("openai/gsm8k", "train test", "main"): {"question": "{} + 0 = ?", "answer": "So #### {}"},
    ("juletxara/mgsm", "train test", "ja"): {"question": "{} + 1 = ?", "answer": None, "answer_number": 1},
    ("alexandrainst/m_arc", "train validation test", "fr"): {
        "id": "{}",
        "instruction": "{} + 0 = ?",
        **{f"option_{letter}": f"{{}} {letter}" for letter in "abcde"},
        "answer": "B",
    },
}


def models(file: Path) -> set[str]:
    """The models of a search file, by their names on the hub."""
    return {str(path) for stage in load_stages(file) for path in stage.config.recipe().paths}


def stand_in(folder: Path, name: str, splits: str, configuration: str, row: dict[str, Any]) -> None:
    """Write a data set of 300 rows where `load_dataset` looks before it asks the hub: in the current folder."""
    place = folder / name
    place.mkdir(parents=True)
    lines = ({key: x.format(n) if isinstance(x, str) else x for key, x in row.items()} for n in range(300))
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    files = ""
    for split in splits.split():
        (place / f"{split}.jsonl").write_text(text)
        files += f"  - {{split: {split}, path: {split}.jsonl}}\n"
    (place / "README.md").write_text(f"---\nconfigs:\n- config_name: {configuration}\n  data_files:\n{files}---\n")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_options_are_those_that_the_plug_ins_take(file: Path) -> None:
    assert file.stem in CLASSES
    for stage in load_stages(file, files=True):
        checked(stage.config)


def test_the_check_ends_where_the_hub_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    done = CliRunner().invoke(app, ["check", str(FOLDER / "sakana.yaml")])
    assert done.exit_code == 3
    assert "sakana.yaml:3: base: 'mistralai/Mistral-7B-v0.1' is not a local path, and the" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_with_tiny_models_and_data_of_the_same_names_the_check_passes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")  # it goes by names, not contents
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDER, tmp_path / "experiments/08-paper-scale")
    for (name, splits, configuration), row in DATA.items():
        stand_in(tmp_path, name, splits, configuration, row)
    config_class, network = CLASSES[file.stem]
    tokenizer = character_tokenizer()
    tokenizer.model_max_length = 4096
    for name in models(file):
        config = config_class(
            **{**SMALL, **HEADS, "head_dim": 8, "vocab_size": len(tokenizer), "max_position_embeddings": 4096}
        )
        tuned = tmp_path / "made" / name
        network(config).save_pretrained(tuned)
        tokenizer.save_pretrained(tuned)
        cached(tmp_path / "hub", name, tuned)
    copy = tmp_path / "experiments/08-paper-scale" / file.name
    text = copy.read_text(encoding="utf-8")
    # IFEval needs packages that are not ours to install.
    copy.write_text("".join(line for line in text.splitlines(True) if "task: ifeval" not in line), encoding="utf-8")
    done = CliRunner().invoke(app, ["check", str(copy)])
    assert done.exit_code == 0, done.output
    assert f"Ready: evomerge search {copy}" in done.stdout


def test_the_script_of_slurm_names_every_model_and_runs_the_one_for_clusters(tmp_path: Path) -> None:
    text = (FOLDER / "slurm.sh").read_text(encoding="utf-8")
    (listed,) = [part.partition("; do")[0] for part in text.split("for model in")[1:2]]
    shown = subprocess.run(["bash", "-c", f"echo {listed}"], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(shown) == sorted({name for file in FILES for name in models(file)})
    (tmp_path / "docs/clusters").mkdir(parents=True)
    (tmp_path / "docs/clusters/slurm.sh").write_text('echo "search $1 $HF_HUB_OFFLINE"\n')
    done = subprocess.run(["bash", FOLDER / "slurm.sh", "x.yaml"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "search x.yaml 1\n"
