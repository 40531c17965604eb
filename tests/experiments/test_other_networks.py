"""The networks of the examples that do not write text: drawn shapes, and search files that pass their checks."""

from pathlib import Path

import numpy as np
import pytest

from evomerge.config import load_config
from evomerge.launch.plan import prepare
from experiments.other_networks import COLORS, MAKERS, QUESTIONS, SHAPES, SIZES, STYLES, color_rows, draw

FILES = Path(__file__).parents[2] / "experiments" / "07-other-networks"


def test_every_attribute_changes_an_image() -> None:
    said = [(s, c, z, y) for s in SHAPES for c in COLORS for z in SIZES for y in STYLES]
    images = [draw(*each, np.random.default_rng(0)) for each in said]
    assert all(image.shape == (32, 32, 3) and 0 <= image.min() <= image.max() <= 1 for image in images)
    assert len({image.tobytes() for image in images}) == len(said)
    # A larger shape has more of its color.
    areas = [np.sum(draw("circle", "red", size, "filled", np.random.default_rng(1))[:, :, 1] < 0.6) for size in SIZES]
    assert areas == sorted(areas)


def test_a_question_has_the_answer_that_its_name_says() -> None:
    texts, rows = color_rows(np.random.default_rng(0), 20)
    colors = list(COLORS)
    for text, row in zip(texts, rows, strict=True):
        read = [word for word in text.split() if word in colors]
        assert [colors[n] for n in row] == read
        assert colors[QUESTIONS["first"](row)] == read[0]
        assert colors[QUESTIONS["last"](row)] == read[-1]
        assert max(read, key=read.count) == colors[QUESTIONS["most"](row)]


@pytest.mark.parametrize("name", list(MAKERS))
def test_its_search_file_passes_the_checks(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "models" / "other" / name, lambda _: None, share=0.005)
    text = (FILES / f"{name}.yaml").read_text().replace("../../", "")
    (tmp_path / "search.yaml").write_text(text)
    plan = prepare(load_config(tmp_path / "search.yaml", files=True))
    assert all(why is None for why in plan.no_loss.values())
    assert plan.space.dimension % 3 == 0
