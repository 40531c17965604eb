"""mergekit's configurations as merges: which models, which coefficients, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from evomerge.merging.mergekit.read import read_mergekit
from evomerge.merging.mergekit.write import InteropError
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.output.materialize import materialize
from evomerge.recipe import Input, Merge, Slice, TokenRow, Vocabulary
from tests.evomerge.merging.folders import llama, tokenizer

MODELS = ("base", "math", "code")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(MODELS):
        tokenizer(llama(folder / name, seed, num_hidden_layers=4, max_position_embeddings=64))
    return folder


@pytest.fixture(autouse=True)
def _in_their_folder(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


def read(tmp_path: Path, text: str, **given: Any) -> Merge:
    path = tmp_path / "merge.yml"
    path.write_text(text)
    return read_mergekit(path, **given)


def coefficient(merge: Merge, tensor: str, name: str = "weight") -> list[float]:
    return [float(value) for value in merge.table.at(tensor)[name]]


LINEAR = "merge_method: linear\nparameters: {weight: 1}\n"
TIES = """\
merge_method: ties
base_model: base
models:
  - model: base
  - model: math
    parameters: {weight: 0.5, density: 0.3}
  - model: code
    parameters: {weight: 0.25}
parameters: {int8_mask: true, lambda: 1.5}
dtype: bfloat16
"""


def test_defaults_are_written_out_and_the_base_is_no_input(tmp_path: Path) -> None:
    merge = read(tmp_path, TIES)
    assert merge.recipe.base == Input("base", "base")
    assert merge.recipe.inputs == (Input("math", "math"), Input("code", "code"))
    assert merge.recipe.method == "ties"
    assert merge.recipe.options == {"compat": "mergekit", "normalize": True, "rescale": "none"}
    assert (merge.recipe.dtype, merge.recipe.tokenizer, merge.recipe.vocabulary) == ("bfloat16", None, None)
    assert dict(merge.table.groups) == {"all": ("*",)}
    values = {name: array.tolist() for name, array in merge.table.values.items()}
    assert values == {"weight": [[0.5, 0.25]], "density": [[0.3, 1.0]], "scale": [[1.5]]}


def test_without_a_base_the_first_model_gives_configuration_and_tokenizer(tmp_path: Path) -> None:
    notes: list[str] = []
    text = "merge_method: linear\nmodels: [{model: math}, {model: code}]\nparameters: {weight: 1}"
    merge = read(tmp_path, text, note=notes.append)
    assert merge.recipe.base == Input("base", "math")
    assert [model.path for model in merge.recipe.inputs] == ["math", "code"]
    assert "configuration and tokenizer are those of math" in notes[0]


def test_a_base_that_a_method_does_not_need_is_one_more_model(tmp_path: Path) -> None:
    notes: list[str] = []
    text = LINEAR + "base_model: base\nmodels: [{model: math, parameters: {weight: 2}}]"
    merge = read(tmp_path, text, note=notes.append)
    assert [model.path for model in merge.recipe.inputs] == ["math", "base"]
    assert coefficient(merge, "*") == [2, 1]
    assert "counts as an additional model" in notes[0]


def test_gradients_run_along_the_layers_and_begin_outside_of_them(tmp_path: Path) -> None:
    merge = read(tmp_path, TIES.replace("weight: 0.5", "weight: [0, 1, 4]"))
    by_layer = [coefficient(merge, f"model.layers.{n}.mlp.up_proj.weight")[0] for n in range(4)]
    assert by_layer == pytest.approx([0, 2 / 3, 2, 4])
    for outside in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert coefficient(merge, outside) == [0, 0.25]
    assert list(merge.table.groups)[:3] == ["head", "embedding", "block.0"]


def test_the_source_goes_before_the_slice_and_the_slice_before_the_merge(tmp_path: Path) -> None:
    text = """\
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: math, layer_range: [0, 2], parameters: {weight: {filter: mlp, value: 3}}}
    parameters: {weight: [{filter: attn, value: 2}]}
  - sources:
      - {model: code, layer_range: [1, 2]}
      - {model: base, layer_range: [3, 4]}
    parameters: {weight: [5, 6], lambda: 0.5}
parameters: {weight: 1}
"""
    merge = read(tmp_path, text)
    assert merge.recipe.slices == (Slice(2, ("base", 0), {"math": 0}), Slice(1, ("base", 3), {"code": 1}))
    found = {
        name: coefficient(merge, f"model.layers.{name}.weight")[0]
        for name in ("1.mlp.up_proj", "1.self_attn.q_proj", "1.input_layernorm")
    }
    assert found == {"1.mlp.up_proj": 3, "1.self_attn.q_proj": 2, "1.input_layernorm": 1}
    # The only layer of a slice has a gradient's last value; what is behind the layers belongs to the last slice.
    assert coefficient(merge, "model.layers.2.mlp.up_proj.weight") == [1, 6]
    assert coefficient(merge, "lm_head.weight") == [1, 5]
    assert coefficient(merge, "lm_head.weight", "scale") == [0.5]
    assert coefficient(merge, "model.embed_tokens.weight", "scale") == [1.0]


def test_filters_see_the_names_of_the_source_and_of_the_result(tmp_path: Path) -> None:
    text = """\
merge_method: task_arithmetic
base_model: base
slices:
  - sources: [{model: base, layer_range: [0, 1]}, {model: math, layer_range: [0, 1]}]
  - sources: [{model: base, layer_range: [2, 3]}, {model: math, layer_range: [3, 4]}]
parameters:
  weight: [{filter: layers.3., value: 2}, {filter: layers.1., value: 7}, {value: 1}]
  lambda: [{filter: layers.1., value: 0.5}, {filter: layers.3., value: 7}]
"""
    merge = read(tmp_path, text)
    tensor = "model.layers.1.mlp.up_proj.weight"
    assert (coefficient(merge, tensor), coefficient(merge, tensor, "scale")) == ([2], [0.5])


def test_a_slice_of_the_base_alone_is_the_base(tmp_path: Path) -> None:
    text = """\
merge_method: ties
base_model: base
slices:
  - sources: [{model: base, layer_range: [0, 2]}]
  - sources: [{model: base, layer_range: [2, 4]}, {model: math, layer_range: [2, 4]}]
parameters: {weight: 1}
"""
    materialize(read(tmp_path, text), tmp_path / "out")
    written, base, math = (Checkpoint.open(path) for path in (tmp_path / "out", "base", "math"))
    for layer, same in ((1, True), (2, False)):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert torch.equal(written.tensor(name), base.tensor(name)) is same
    assert torch.equal(written.tensor("lm_head.weight"), math.tensor("lm_head.weight"))


def test_a_slice_may_have_a_base_of_its_own(tmp_path: Path) -> None:
    text = """\
merge_method: slerp
base_model: base
slices:
  - sources: [{model: base, layer_range: [0, 1]}, {model: math, layer_range: [0, 1]}]
  - sources: [{model: base, layer_range: [1, 2]}, {model: math, layer_range: [2, 3]}]
    base_model: math
parameters: {t: 0.25}
"""
    merge = read(tmp_path, text)
    assert merge.recipe.slices[1] == Slice(1, ("math", 2), {"base-2": 1})
    assert [(model.name, model.path) for model in merge.recipe.inputs] == [("math", "math"), ("base-2", "base")]


def test_a_frankenmerge_loads_and_generates(tmp_path: Path) -> None:
    text = """\
merge_method: passthrough
slices:
  - sources: [{model: math, layer_range: [0, 3]}]
  - sources: [{model: code, layer_range: [1, 4]}]
  - sources:
      - model: math
        layer_range: [3, 4]
        parameters: {scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: 0}, {value: 1}]}
dtype: float16
"""
    materialize(read(tmp_path, text), tmp_path / "out")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (network.config.num_hidden_layers, len(network.model.layers), network.dtype) == (7, 7, torch.float16)
    code = Checkpoint.open("code").tensor("model.layers.2.mlp.up_proj.weight")
    assert torch.equal(network.model.layers[4].mlp.up_proj.weight, code.half())
    assert not network.model.layers[6].self_attn.o_proj.weight.any()
    tokens = network.generate(torch.tensor([[1, 2]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert tokens.shape[1] > 2


def test_models_of_a_hub_keep_their_names_and_revisions(tmp_path: Path) -> None:
    text = """\
merge_method: linear
models:
  - {model: org/math}
  - {model: org/math@v2}
  - {model: org/code@v1+runs/lora}
  - {model: {model: {path: x@y/math, revision: v3}, lora: other/l+a}}
parameters: {weight: 1}
"""
    with pytest.raises(
        InteropError, match=r"merge.yml:6: models.3.model: expected PATH@REVISION.ADAPTER@REVISION; got 'other/l.a'"
    ):
        read(tmp_path, text)
    merge = read(tmp_path, text.replace("other/l+a", "{path: other/l+a}"))
    assert merge.recipe.inputs == (
        Input("math", "org/math", "main"),
        Input("math-2", "org/math", "v2"),
        Input("code+lora", "org/code", "v1", adapter="runs/lora", adapter_revision="main"),
        Input("math+l+a", "x@y/math", "v3", adapter="other/l+a", adapter_revision="main"),
    )


def test_tokenizers(tmp_path: Path) -> None:
    def vocabulary(text: str, body: str = TIES) -> tuple[str | None, Vocabulary | None]:
        recipe = read(tmp_path, body + text).recipe
        return recipe.tokenizer, recipe.vocabulary

    assert vocabulary("tokenizer_source: base") == ("base", Vocabulary(1, "base"))
    assert vocabulary("tokenizer: {}") == ("union", Vocabulary(1, "base"))
    assert vocabulary("tokenizer: {source: math, pad_to_multiple_of: 8}") == ("math", Vocabulary(8, "base"))
    linear = "merge_method: linear\nmodels: [{model: math}, {model: code}]\nparameters: {weight: 1}\n"
    assert vocabulary("tokenizer_source: union", linear) == ("union", Vocabulary(1, "inputs"))
    tokens = """\
tokenizer:
  tokens:
    a: {source: code, force: true}
    b: {source: {kind: zero}}
    c: {source: {kind: model_token, model: base, token: a}}
    d: {source: {kind: model_token, model: math, token_id: 2}}
"""
    rules = {
        "a": TokenRow("code", force=True),
        "b": TokenRow(),
        "c": TokenRow("base", token="a"),
        "d": TokenRow("math", id=2),
    }
    assert vocabulary(tokens) == ("union", Vocabulary(1, "base", rules))


def test_chat_templates(tmp_path: Path) -> None:
    own = "{{ messages[0]['content'] }} and what follows"
    assert read(tmp_path, TIES + f'chat_template: "{own}"').recipe.chat_template == own
    assert read(tmp_path, TIES + "chat_template: auto").recipe.chat_template is None
    for name, template in (("base", "{{ a }}"), ("math", "{{ b }}\n"), ("code", "{{ b }}")):
        (Path(name) / "chat_template.jinja").write_text(template)
    try:
        merge = read(tmp_path, TIES + "chat_template: auto")
        assert merge.recipe.chat_template == "{{ b }}"
        materialize(merge, tmp_path / "out")
        assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ b }}"
    finally:
        for name in MODELS:
            (Path(name) / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dtype: bfloat16", "dtpye: bfloat16", ":10: dtpye: unknown key 'dtpye'; did you mean 'dtype'?"),
        (
            "density: 0.3",
            "densty: 0.3",
            ":6: models.1.parameters.densty: unknown parameter of ties 'densty'; did you me",
        ),
        ("density: 0.3", "lambda: 0.3", ":6: models.1.parameters.lambda: lambda applies to all models"),
        (
            "- model: base",
            "- {model: base, layer_range: [0, 4]}",
            ":4: models.0.layer_range: unknown key 'layer_range'",
        ),
    ],
)
def test_unknown_keys_are_errors_or_if_lenient_notes(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = TIES.replace(old, new)
    with pytest.raises(InteropError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    notes: list[str] = []
    merge = read(tmp_path, text, lenient=True, note=notes.append)
    assert any("was ignored" in note for note in notes)
    changed = {"dtype: bfloat16": "dtype:", "density: 0.3": "density: 1"}.get(old, old)
    assert merge == read(tmp_path, TIES.replace(old, changed))


def test_settings_without_effect_are_noted(tmp_path: Path) -> None:
    notes: list[str] = []
    text = TIES.replace("- model: base", "- {model: base, parameters: {weight: 7}}")
    assert read(tmp_path, text, note=notes.append) == read(tmp_path, TIES)
    assert [note.removeprefix(f"{tmp_path}/merge.yml:9: parameters.") for note in notes] == [
        f"{tmp_path}/merge.yml:9: int8_mask has no effect on ties and was ignored",
        "weight of the base model base has no effect in mergekit",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: []", "expected text; got None"),
        ("merge_method: tise\n" + TIES[19:], "merge_method: unknown method 'tise'; did you mean 'ties'"),
        (TIES.replace("base_model: base\n", ""), "ties needs a `base_model`"),
        (
            TIES.replace("weight: 0.25", "density: 0.25"),
            ":7: models.2: ties needs `weight` for code; none is set",
        ),
        (
            "merge_method: linear\nbase_model: base\nmodels: [{model: math, parameters: {weight: 1}}]",
            "needs `weight` for base; .*As `base_model` it counts as an additional model: list it under `models` with",
        ),
        (TIES.replace("dtype: bfloat16", "dtype: float64"), "expected one of 'float32'.*got 'float64'"),
        (TIES.replace("density: 0.3", "lambda: 0.3"), "parameters.lambda: lambda applies to all models"),
        (
            "merge_method: multislerp\nmodels: [{model: math}, {model: code}]\nparameters: {weight: 1, eps: 1e-3}",
            "mergekit's multislerp with eps: 0.001 is not supported",
        ),
        (
            TIES.replace("int8_mask: true", "normalize: {filter: mlp, value: 0}"),
            "normalize must be the same for all tens",
        ),
        (TIES.replace("weight: 0.25", "weight: -0.25"), "ties with `normalize` and a negative weight is not supported"),
        (TIES + "slices: [{sources: [{model: base}]}]", "expected either `models` or `slices`; got models and sl"),
        (TIES + "modules: {vision: {models: [{model: base}]}}", "modules other than one `default`.*not supported"),
        (TIES + "tokenizer: {source: other}", "other is not in the merge"),
        (TIES + "chat_template: chatml", ":11: chat_template: chatml is a file of mergekit's"),
        (TIES + "tokenizer: {tokens: {a: {source: {kind: model_token, model: math}}}}", "either `token` or `token_id`"),
        (LINEAR + "models: [{model: math}, {model: math}]", "models.1: math appears twice among the sources"),
        (LINEAR + "models: [{model: a@b@c}]", "expected PATH@REVISION.ADAPTER@REVISION; got 'a@b@c'"),
        (LINEAR + "models: [{model: a+b@c@d}]", "expected PATH@REVISION.ADAPTER@REVISION; got 'b@c@d'"),
        (LINEAR + "slices: [{sources: [{model: math, layer_range: [2, 2]}]}]", r"expected \[first layer, layer after"),
        (
            LINEAR + "slices: [{sources: [{model: math, layer_range: [0, 2]}, {model: code, layer_range: [0, 1]}]}]",
            "slices.0.sources: the sources of a slice need the same number of layers; got 2, 1",
        ),
        (
            "merge_method: slerp\nbase_model: base\nmodels: [{model: base}]\nparameters: {t: 1}",
            "slerp needs a model besides the base",
        ),
        (
            TIES[:36] + "slices: [{sources: [{model: math, layer_range: [0, 1]}]}]",
            ":3: slices.0: the base model base must be a source of every slice",
        ),
        (
            "merge_method: karcher\nmodels: [{model: math}]\nparameters: {max_iter: [1, 2]}",
            "max_iter must be an integer; it is 1.33",
        ),
    ],
)
def test_refusals(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InteropError, match=message):
        read(tmp_path, text)
