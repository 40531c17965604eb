import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import transformers as tf
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Evaluator, EvaluatorError
from evaluators.image_classification import ImageClassification
from tests.architectures.kinds import KINDS
from tests.architectures.models import run, write_models, write_tokenizer
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel

COLORS = {"blue": (40, 60, 200), "green": (60, 200, 60), "red": (200, 40, 40)}
TEMPLATES = ["a photo of a {}", "{} car"]


def write_images(folder: Path, per_class: int = 8) -> Path:
    """Noisy images of three colors, in a folder each."""
    draw = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            values = np.clip(draw.normal(color, 60, (36, 40, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(values).save(folder / name / f"{i}.png")
    return folder


def write_processor(folder: Path) -> Path:
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def seeing(kind: str, seed: int, **config: Any) -> TinyModel:
    """A random network that sees, loud enough to have opinions."""
    name, shape = KINDS[kind].network.args  # type: ignore[attr-defined]
    architecture = getattr(tf, name)
    made = (
        {**shape, "initializer_range": 0.1, "id2label": dict(enumerate(COLORS)), **config} if kind == "ViT" else shape
    )
    made.pop("num_labels", None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = architecture(architecture.config_class(**made)).eval()
        if kind == "CLIP":
            for parameter in network.parameters():
                parameter.data += 0.2 * torch.randn_like(parameter)
            network.logit_scale.data.fill_(2.0)
    return TinyModel(network, None, Path())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colors")


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_processor(tmp_path_factory.mktemp("processor"))


class ImagesContract(EvaluatorContract):
    kind = "ViT"
    tolerance = 1e-4  # large weights

    @pytest.fixture
    def model(self) -> TinyModel:
        return seeing(self.kind, 0)

    @pytest.fixture
    def other_model(self) -> TinyModel:
        return seeing(self.kind, 1)

    @pytest.fixture
    def broken_model(self, model: TinyModel) -> TinyModel:
        network = copy.deepcopy(model.network)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(float("nan"))
        return TinyModel(network, None, Path())


class TestVit(ImagesContract):
    @pytest.fixture
    def build(self, images: Path, processor: Path) -> Callable[[], Evaluator]:
        return lambda: ImageClassification(folder=str(images), processor=str(processor), batch_images=5)

    @pytest.fixture
    def learnable(self, images: Path, processor: Path) -> Callable[[], Evaluator]:
        return lambda: ImageClassification(folder=str(images), processor=str(processor), score="logprob")


class TestVitWithTheHeadOfAnExpert(ImagesContract):
    @pytest.fixture
    def build(self, images: Path, processor: Path, other_model: TinyModel) -> Callable[[], Evaluator]:
        def make() -> Evaluator:
            labels = list(COLORS)
            evaluator = ImageClassification(
                folder=str(images), processor=str(processor), head="cars", labels=labels, score="probability"
            )
            evaluator.learn("cars", other_model, evaluator.example_ids)
            return evaluator

        return make


class TestClip(ImagesContract):
    kind = "CLIP"
    steps = 10

    @pytest.fixture
    def build(self, images: Path, processor: Path) -> Callable[[], Evaluator]:
        return lambda: ImageClassification(
            folder=str(images), processor=str(processor), templates=TEMPLATES, batch_images=5
        )


def test_vit_equals_the_networks_own_outputs(images: Path, processor: Path) -> None:
    model = seeing("ViT", 0)
    scores = ImageClassification(folder=str(images), processor=str(processor)).score(model)
    assert scores.choices is not None
    for row in range(6):
        kind = list(COLORS)[row % 3]  # the classes take turns
        with PIL.Image.open(images / kind / f"{row // 3}.png") as image:
            inputs = ViTImageProcessorPil.from_pretrained(processor)(images=image, return_tensors="pt")
        with torch.no_grad():
            expected = model.network(**inputs).logits[0].log_softmax(-1)
        np.testing.assert_allclose(scores.choices[row], expected, atol=1e-4)
        assert scores.values[row] == float(expected.argmax() == row % 3)


def test_clip_equals_its_own_similarities_and_reads_the_prompts_of_every_candidate(
    images: Path, processor: Path
) -> None:
    model = seeing("CLIP", 0)
    evaluator = ImageClassification(
        folder=str(images), processor=str(processor), templates="{} car", names={"red": "fire_red"}
    )
    before = np.array(evaluator.score(model).choices)
    tokens = tf.AutoTokenizer.from_pretrained(processor)(
        ["blue car", "green car", "fire red car"], padding=True, return_tensors="pt"
    )
    with PIL.Image.open(images / "blue" / "0.png") as image:
        inputs = ViTImageProcessorPil.from_pretrained(processor)(images=image, return_tensors="pt")
    kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model.network(**inputs, **kept).logits_per_image[0].log_softmax(-1)
        np.testing.assert_allclose(before[0], expected, atol=1e-4)
        model.network.text_projection.weight.mul_(-1)
    assert not np.allclose(np.array(evaluator.score(model).choices), before, atol=1e-3)


def test_the_features_of_several_templates_are_averaged(images: Path, processor: Path) -> None:
    model, templates = seeing("CLIP", 0), ["{} car", "a photo of a {}"]
    found = ImageClassification(folder=str(images), processor=str(processor), templates=templates, batch_images=4)
    features = []
    for template in templates:
        texts = [template.format(name) for name in COLORS]
        tokens = tf.AutoTokenizer.from_pretrained(processor)(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
            outputs = model.network(pixel_values=found._pixels, **kept)
        features.append(outputs.text_embeds)
    mean = torch.nn.functional.normalize((features[0] + features[1]) / 2, dim=-1)
    expected = (model.network.logit_scale.exp() * outputs.image_embeds @ mean.T).log_softmax(-1).detach()
    np.testing.assert_allclose(np.array(found.score(model).choices), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ViT", {"labels": ["blue", "green", "red", "white"]}, "`labels` has 4 names"),
        ("ViT", {"labels": ["blue", "green", "yellow"]}, "the label is 'red'"),
        ("ViT", {"names": {"pink": "rose"}}, "names has 'pink'"),
        ("ViT", {"templates": "a {}"}, "ViTForImageClassification does not compare images with texts"),
        ("ViT", {"templates": "a car"}, "templates has 'a car'"),
        ("ViT", {"templates": "a {}", "head": "cars"}, "classify without a head"),
        ("ViT", {"head": "cars"}, "set `labels`"),
        ("ViT", {"batch_images": 0}, "batch_images is 0"),
        ("ViT", {"limit": 0}, "limit is 0"),
        ("CLIP", {}, "set `templates`"),
        ("BERT", {}, "BertForSequenceClassification has no head that classifies"),
        ("ViT", {"folder": "missing"}, "missing is not a folder"),
        ("ViT", {"processor": "missing"}, "missing: preprocessor_config.json missing"),
    ],
)
def test_what_cannot_work_is_refused(
    images: Path, processor: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    network = seeing(kind, 0).network if kind != "BERT" else KINDS[kind].network()
    with pytest.raises(EvaluatorError, match=message):
        ImageClassification(**{"folder": str(images), "processor": str(processor), **options}).preflight(
            TinyModel(network, None, Path())
        )


def test_a_file_that_is_no_image_and_a_single_class_are_refused(tmp_path: Path, processor: Path) -> None:
    folder = write_images(tmp_path / "colors", 2)
    (folder / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(EvaluatorError, match=r"red.0.png cannot be read as an image"):
        ImageClassification(folder=str(folder), processor=str(processor)).preflight(seeing("ViT", 0))
    with pytest.raises(EvaluatorError, match="has 0 folders with images"):
        ImageClassification(folder=str(folder / "red"), processor=str(processor))


def test_a_limit_takes_images_of_all_classes(images: Path, processor: Path) -> None:
    evaluator = ImageClassification(folder=str(images), processor=str(processor), limit=6)
    assert [label.value for label in evaluator._labels] == [*COLORS, *COLORS]


def write_parquet(file: Path, folder: Path, **columns: Any) -> Path:
    """The images of class folders as a Parquet file, as datasets writes one. columns: to add or to replace."""
    paths = sorted(folder.glob("*/*.png"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLORS))})
    seen = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    rows = {"image": seen, "label": [path.parent.name for path in paths]}
    datasets.Dataset.from_dict(rows, features=features).rename_columns(columns).to_parquet(str(file))
    return file


def test_a_parquet_file_scores_like_the_folders_that_it_was_made_of(
    tmp_path: Path, images: Path, processor: Path
) -> None:
    file = write_parquet(tmp_path / "colors.parquet", images, label="shade")
    folders = ImageClassification(folder=str(images), processor=str(processor), limit=20)
    found = ImageClassification(file=str(file), columns={"label": "shade"}, processor=str(processor), limit=20)
    assert found.example_ids == folders.example_ids
    model = seeing("ViT", 0)
    expected, scores = folders.score(model), found.score(model)
    assert scores.values.tolist() == expected.values.tolist()
    assert np.array_equal(np.array(scores.choices), np.array(expected.choices))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"has no column 'label', but image, shade; name them by `columns`"),
        ({"columns": {"labels": "shade"}}, "columns has 'labels'; expected names for 'image' and 'label'"),
        ({"columns": {"image": "shade", "label": "image"}}, r"row 0 \(from 0\) has no bytes of an image"),
        ({"folder": "colors"}, "in a `folder` or in a Parquet `file`: both are set"),
    ],
)
def test_a_parquet_file_that_cannot_be_used_is_refused(
    tmp_path: Path, images: Path, processor: Path, options: dict[str, Any], message: str
) -> None:
    file = write_parquet(tmp_path / "colors.parquet", images, label="shade")
    with pytest.raises(EvaluatorError, match=message):
        ImageClassification(file=str(file), processor=str(processor), **options)


def test_a_file_that_is_no_parquet_file_is_refused(tmp_path: Path, processor: Path) -> None:
    (tmp_path / "x.parquet").write_text("{}")
    with pytest.raises(EvaluatorError, match=r"x.parquet cannot be read as Parquet"):
        ImageClassification(file=str(tmp_path / "x.parquet"), processor=str(processor))
    with pytest.raises(EvaluatorError, match=r"neither is set"):
        ImageClassification(processor=str(processor))


def search_file(folder: Path, tasks: dict[str, Any]) -> Path:
    found = {
        "base": "base",
        "experts": {"a": "a", "b": "b"},
        "method": "task_arithmetic",
        "space": "layerwise",
        "tasks": {name: {"evaluator": "image_classification", **options} for name, options in tasks.items()},
        "optimizer": "random",
        "budget": {"trials": 4},
        "executor": "serial",
        "device": "cpu",
        "study": "study",
    }
    (folder / "search.yaml").write_text(strict_yaml.dump(found))
    return folder / "search.yaml"


@pytest.mark.parametrize("kind", ["ViT", "CLIP"])
def test_searches_and_checks(kind: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_models(kind, tmp_path)
    write_processor(tmp_path / "base")
    own = {"ViT": {"labels": ["blue", "green", "red", "x", "y"], "head": "a"}, "CLIP": {"templates": TEMPLATES}}[kind]
    task = {"folder": str(images), "processor": "base", "score": "logprob", **own}
    wrong = {"ViT": {"templates": "a {}"}, "CLIP": {"labels": ["a", "b"]}}[kind]
    code, said = run("check", search_file(tmp_path, {"colors": {"folder": str(images), "processor": "base", **wrong}}))
    assert code != 0
    assert {"ViT": "does not compare images", "CLIP": "set `templates`"}[kind] in " ".join(said.split())
    file = search_file(tmp_path, {"colors": task})
    assert run("check", file)[0] == 0
    code, said = run("search", file, "--json")
    assert code == 0, said
    assert '"winner"' in said
