"""`evomerge merge`: what it says, and that mistakes in the recipe are told with their line before anything heavy."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evomerge.cli import app
from tests.toys import write_toys

RECIPE = """\
evomerge: 1
base: base.safetensors
inputs: {a: a.safetensors, b: b.safetensors}
method: ties
options:
  normalize: true
coefficients:
  weight: 0.5
  density:
    a: 0.5
    b: 0.75
"""
GROUPED = """\
evomerge: 1
base: base.safetensors
inputs: {a: a.safetensors, b: b.safetensors}
method: ties
groups: {norms: ["*norm*"], others: ["*"]}
coefficients:
  density:
    norms: 0.5
    others:
      - 0.5
      - 1.5
"""


def merge(tmp_path: Path, text: str, *arguments: str) -> Result:
    write_toys(tmp_path)
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    return CliRunner().invoke(app, ["merge", str(tmp_path / "r.yaml"), "-o", str(tmp_path / "out"), *arguments])


def test_one_weight_file_is_counted_in_the_singular(tmp_path: Path) -> None:
    done = merge(tmp_path, RECIPE)
    assert done.exit_code == 0, done.output
    assert done.output == f"Wrote 1 weight file to {tmp_path / 'out'}\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (RECIPE.replace("ties", "tiess"), 4, "No merge method named 'tiess'. Did you mean 'ties'?"),
        (RECIPE.replace("normalize", "normalise"), 6, "ties has no option 'normalise'. Did you mean 'normalize'?"),
        (RECIPE.replace("normalize: true", "normalize: 1"), 6, "ties: normalize must be true or false; it is 1."),
        (RECIPE.replace("weight:", "wieght:"), 8, "ties has no parameter 'wieght'. Did you mean 'weight'?"),
        (RECIPE.replace("0.75", "7.5"), 11, "ties: density of 'b' must lie between 0 and 1; it is 7.5."),
        (GROUPED, 11, "ties: density of 'b' in group 'others' must lie between 0 and 1; it is 1.5."),
        (RECIPE.replace("ties", "slerp"), 3, "slerp merges exactly 1 model(s) into the base; got 2."),
    ],
)
def test_mistakes_are_reported_with_their_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    done = merge(tmp_path, text)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {tmp_path}/r.yaml:{line}: {message}"), done.stderr


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["merge", str(tmp_path / "gone.yaml"), "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "gone.yaml does not exist: expected a recipe file or a mergekit configuration. The folder" in done.stderr


def test_a_misspelt_method_is_an_error_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("ties", "tiess"), encoding="utf-8")
    code = (
        "import sys\nfrom evomerge.cli import app\n"
        f"try:\n    app(['merge', '{tmp_path}/r.yaml', '-o', '{tmp_path}/out'])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n", done.stderr
