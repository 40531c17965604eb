"""Models that cannot be merged are refused with their cause, the same one whatever command meets them first."""

import shutil
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from tests.evomerge.merging.folders import llama, tokenizer

RECIPE = "evomerge: 1\nbase: base\ninputs: {a: other, b: b}\nmethod: task_arithmetic\ncoefficients: {weight: 0.5}\n"
SLICES = RECIPE + "slices: [{blocks: 1, base: {base: 0}, inputs: {a: 1}}]\n"
KIT = """\
merge_method: task_arithmetic
base_model: base
models: [{model: other, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]
"""
COMMANDS = {
    "check": "check search.yaml",
    "plan": "plan search.yaml",
    "search": "search search.yaml",
    "merge": "merge recipe.yaml -o out",
    "slices": "merge slices.yaml -o out",
    "union": "merge union.yaml -o out",
    "lora": "merge recipe.yaml -o out --lora 2",
    "mergekit": "merge kit.yaml -o out",
    "import": "import kit.yaml -o out.yaml",
    "init": "init base other b --task words.txt -o out.yaml",
    "soup": "soup base other b --data words.txt -o out.yaml",
    "mask": "tools mask base other --data words.txt -o out",
    "analytic-q": "tools analytic-q base other --data words.txt -o out.yaml",
    "align": "align other --to base -o out",
    "repair": "repair base other b --data words.txt -o out",
}


def others(folder: Path) -> dict[str, str]:
    """Folder of an expert that does not fit -> why."""
    tensors = load_file(folder / "b" / "model.safetensors")
    causes = {}
    for prefix, writer in (("_orig_mod.", "torch.compile"), ("base_model.model.", "PEFT"), ("module.", "DataParallel")):
        made = shutil.copytree(folder / "b", folder / writer)
        save_file({prefix + n: t for n, t in tensors.items()}, made / "model.safetensors", {"format": "pt"})
        causes[writer] = f"the input's begin with '{prefix}', as {writer} leaves them"
    made = shutil.copytree(folder / "b", folder / "bare")
    bare = {n.removeprefix("model."): t for n, t in tensors.items()}
    save_file(bare, made / "model.safetensors", {"format": "pt"})
    causes["bare"] = "the base's begin with 'model.', as another class saves them"
    config = transformers.GPT2Config(vocab_size=24, n_embd=16, n_layer=3, n_head=2, n_positions=32)
    transformers.GPT2LMHeadModel(config).save_pretrained(tokenizer(llama(folder / "gpt2")))
    causes["gpt2"] = "Another architecture? The base is 'LlamaForCausalLM', the input 'GPT2LMHeadModel'."
    return causes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "b")):
        tokenizer(llama(folder / name, seed))
    causes = others(folder)
    files = {"recipe": RECIPE, "slices": SLICES, "union": RECIPE + "tokenizer: union\n", "kit": KIT}
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "words.txt").write_text("a b c " * 50)
    search = {
        "base": "base",
        "experts": {"a": "other", "b": "b"},
        "tasks": {"t": {"evaluator": "synthetic"}},
        "study": "study",
        "executor": "serial",
    }
    (folder / "search.yaml").write_text(strict_yaml.dump(search))
    return folder, causes


@pytest.mark.parametrize("kind", ["torch.compile", "PEFT", "DataParallel", "bare", "gpt2"])
def test_names_with_a_prefix(models: tuple[Path, dict[str, str]], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, causes = models
    monkeypatch.chdir(folder)
    (folder / "other").unlink(missing_ok=True)
    (folder / "other").symlink_to(kind)
    said = {}
    for name, line in COMMANDS.items():
        refused = CliRunner().invoke(app, line.split())
        assert refused.exit_code == 3, (name, refused.output)
        said[name] = refused.output.partition(" does not have the base's tensors: ")[2]
    assert len(set(said.values())) == 1, said
    assert causes[kind] in said["check"]
    assert not (folder / "out").exists()
