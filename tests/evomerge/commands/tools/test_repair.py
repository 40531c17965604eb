"""`evomerge tools repair` on averages of models that were made apart; transformers measures what was written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from evomerge.cli import app
from evomerge.prepare.calibration.data import Text, encode_texts
from tests.evaluators.tiny_llama import LLAMA, LOUD, build, write_lines

TEXTS = ["the quick fox jumps over", "2+3=5; 17*3=51", "AXIOM: a", "LEMMA 9 of (7)", "ok, then!"]
GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
DEEP = {**LLAMA, **LOUD, "num_hidden_layers": 3}
OPT = {
    "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "max_position_embeddings": 64, "init_std": 0.3,
}  # fmt: skip
#: Architecture -> its classes, settings, the layers that are corrected, and whether they have biases.
KINDS: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...], bool]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", DEEP, ("gate_proj", "up_proj"), False),
    "llama with biases": (
        "LlamaConfig", "LlamaForCausalLM", {**DEEP, "mlp_bias": True}, ("gate_proj", "up_proj"), True,
    ),
    "fused": ("Phi3Config", "Phi3ForCausalLM", DEEP, ("gate_up_proj",), False),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2, ("c_fc",), True),
    "opt": ("OPTConfig", "OPTForCausalLM", OPT, ("fc1",), True),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Two models, their average with weights 1 - share and share, and data."""

    folder: Path
    layers: tuple[str, ...]
    biased: bool
    share: float = 0.3

    def repair(self, *flags: object, name: str = "out") -> Result:
        weights = f"{1 - self.share},{self.share}"
        ends = [self.folder / end for end in ("a", "b")]
        return run(self.folder / "merged", *ends, "--weights", weights, "--data", self.folder / "data.jsonl",
                   "-o", self.folder / name, *flags)  # fmt: skip

    def statistics(self, name: str) -> dict[str, tuple[Tensor, Tensor]]:
        """Means and deviations of all linear layers that are named, as transformers runs the whole model."""
        network = transformers.AutoModelForCausalLM.from_pretrained(self.folder / name).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder / "merged")
        seen: dict[str, list[Tensor]] = {}
        for path, module in network.named_modules():
            if path.endswith(self.layers):
                keep = seen.setdefault(path, [])
                module.register_forward_hook(lambda _, __, out, keep=keep: keep.append(out.double().flatten(0, -2)))
        with torch.no_grad():
            for example in encode_texts([Text("", text) for text in TEXTS], tokenizer, 64):
                network(torch.tensor([example.tokens[:-1]]))
        return {path: (torch.cat(parts).mean(0), torch.cat(parts).std(0)) for path, parts in seen.items()}

    def goal(self) -> dict[str, tuple[Tensor, Tensor]]:
        one, other = self.statistics("a"), self.statistics("b")
        return {
            path: tuple((1 - self.share) * x + self.share * y for x, y in zip(one[path], other[path], strict=True))  # type: ignore[misc]
            for path in one
        }


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["tools", "repair", *map(str, arguments)])


def average(folder: Path, share: float) -> None:
    """Of `a` and `b`, as `merged`."""
    one, other = (load_file(folder / name / "model.safetensors") for name in ("a", "b"))
    tensors = {name: ((1 - share) * one[name] + share * other[name]).contiguous() for name in one}
    save_file(tensors, folder / "merged" / "model.safetensors", metadata={"format": "pt"})


def make(folder: Path, kind: str, **own: Any) -> Case:
    config, model, settings, layers, biased = KINDS[kind]
    for seed, name in enumerate(("a", "b", "merged")):
        build(folder / name, seed, getattr(transformers, config), getattr(transformers, model), **settings, **own)
        tensors, random = load_file(folder / name / "model.safetensors"), torch.Generator().manual_seed(seed)
        for key, tensor in tensors.items():
            if key.endswith("bias"):
                tensor.copy_(torch.randn(tensor.shape, generator=random))
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    case = Case(folder, layers, biased)
    average(folder, case.share)
    write_lines(folder / "data.jsonl", [{"text": text} for text in TEXTS])
    return case


def distance(
    found: Mapping[str, tuple[Tensor, Tensor]], goal: Mapping[str, tuple[Tensor, Tensor]], which: int
) -> float:
    """Largest deviation of a channel, in standard deviations of the goal."""
    assert found.keys() == goal.keys()
    return max(float(((found[path][which] - goal[path][which]) / goal[path][1]).abs().max()) for path in goal)


#: Weights are rounded to 24 bits and 48 or fewer products summed in float32, behind three blocks: 1e-5 leaves a
#: hundred roundings of room, and is a ten thousandth of what the merges are off by.
ROUNDING = 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_channels_vary_as_in_the_endpoints(tmp_path: Path, kind: str) -> None:
    case = make(tmp_path, kind)
    done = case.repair("--json")
    assert done.exit_code == 0, done.output
    goal, before, after = case.goal(), case.statistics("merged"), case.statistics("out")
    assert distance(before, goal, 1) > 0.1
    assert distance(after, goal, 1) < ROUNDING
    assert (distance(after, goal, 0) < ROUNDING) == case.biased
    record = json.loads(done.stdout)
    written = json.loads((tmp_path / "out" / "evomerge.json").read_text())
    assert set(written.pop("files")) == {file.name for file in (tmp_path / "out").iterdir()}
    assert record == written
    channels = sum(len(std) for _, std in goal.values())
    assert (record["layers"], record["channels"]) == (3 * len(case.layers), channels)
    assert record["channels_with_means"] == (channels if case.biased else 0)
    for key, which in (("means_off", 0), ("deviations_off", 1)):
        for number, found in zip(record[key], (before, after), strict=True):
            gaps = torch.cat([found[path][which] - goal[path][which] for path in goal])
            assert number == pytest.approx(float(gaps.abs().mean()), rel=1e-4, abs=1e-5)


def test_only_layers_that_produce_hidden_units_change(tmp_path: Path) -> None:
    case = make(tmp_path, "llama with biases")
    assert case.repair().exit_code == 0
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "out"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {
        f"model.layers.{i}.mlp.{layer}.{part}"
        for i in range(3) for layer in case.layers for part in ("weight", "bias")
    }  # fmt: skip
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "merged" / file).read_bytes()


def test_rescaling_leaves_means_to_themselves_where_there_are_biases(tmp_path: Path) -> None:
    case = make(tmp_path, "gpt2")
    done = case.repair("--rescale")
    assert "RESCALE" not in done.stdout, "it was asked for"
    goal, after = case.goal(), case.statistics("out")
    assert distance(after, goal, 1) < ROUNDING
    assert distance(after, goal, 0) > 0.1


def test_rescaling_of_layers_without_biases_is_noted(tmp_path: Path) -> None:
    done = make(tmp_path, "llama").repair()
    assert "288 of 288 channels belong to layers without a bias" in done.stdout
    assert "standard deviation" in done.stdout


@pytest.mark.parametrize("kind", ["llama with biases", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_of_identical_models_stays(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    case = make(tmp_path, kind)
    same = {name: tensor.to(dtype) for name, tensor in load_file(tmp_path / "a" / "model.safetensors").items()}
    for name in ("a", "b", "merged"):
        save_file(same, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    assert case.repair("--batch-tokens", 16).exit_code == 0
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in same.items():
        assert written[name].dtype == dtype
        # Weights are rounded once, from factors that are 1 up to float64.
        torch.testing.assert_close(written[name], tensor, rtol=0, atol=1e-12, msg=name)


def test_half_precision_is_what_is_measured(tmp_path: Path) -> None:
    case = make(tmp_path, "gpt2")
    for name in ("a", "b", "merged"):
        file = tmp_path / name / "model.safetensors"
        tensors = {key: tensor.bfloat16() for key, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    record = json.loads(case.repair("--json").stdout)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    before, after = record["deviations_off"]
    # Eight bits per weight, in sums of 16: a channel is off by less than a rounding of each.
    assert 0 < after < 2**-8 * record["scale"] < before


def test_batches_and_order_of_the_data_do_not_matter(tmp_path: Path) -> None:
    case = make(tmp_path, "gpt2")
    assert case.repair("--batch-tokens", 1).exit_code == 0
    write_lines(tmp_path / "data.jsonl", [{"text": text} for text in reversed(TEXTS)])
    assert case.repair("--batch-tokens", 4096, name="again").exit_code == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=ROUNDING, atol=ROUNDING)


def test_invalid_arguments_write_nothing(tmp_path: Path) -> None:
    make(tmp_path, "gpt2")
    a, merged, data = tmp_path / "a", tmp_path / "merged", tmp_path / "data.jsonl"
    out = ("-o", tmp_path / "out")

    def refused(code: int, text: str, *arguments: object) -> None:
        done = run(*arguments, *out)
        assert done.exit_code == code, done.output
        assert text in done.stderr

    refused(2, "has at least two endpoints; got 1", merged, a, "--data", data)
    refused(2, "one for each of 2 models", merged, a, a, "--data", data, "--weights", "1")
    refused(2, "not negative", merged, a, a, "--data", data, "--weights=-1,2")
    refused(2, "expected comma-separated numbers", merged, a, a, "--data", data, "--weights", "half")
    refused(2, "missing.jsonl", merged, a, a, "--data", tmp_path / "missing.jsonl")
    refused(2, "reads 1 token of the data", merged, a, a, "--data", data, "--examples", 1, "--length", 2)
    config, kind = transformers.GPT2Config, transformers.GPT2LMHeadModel
    wide = build(tmp_path / "wide", 0, config, kind, **{**GPT2, "n_inner": 24})
    refused(3, "differ in shape", merged, a, wide.folder, "--data", data)
    strange = build(tmp_path / "strange", 0, transformers.BloomConfig, transformers.BloomForCausalLM, hidden_size=8,
                    n_layer=2, n_head=2).folder  # fmt: skip
    refused(2, "found no layers that write hidden units", strange, strange, strange, "--data", data)
    tensors = load_file(a / "model.safetensors")
    tensors["transformer.ln_f.bias"][0] = torch.nan
    save_file(tensors, a / "model.safetensors", metadata={"format": "pt"})
    refused(3, "holds 1 NaN or infinite values", merged, a, tmp_path / "b", "--data", data)
    assert not (tmp_path / "out").exists()
    done = run(merged, merged, merged, "--data", data, "-o", merged, "--overwrite")
    assert (done.exit_code, (merged / "evomerge.json").exists()) == (3, False), done.output
