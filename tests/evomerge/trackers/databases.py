"""MLflow databases to log to, whose tables are there already: making them takes two seconds each time."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.tracking import MlflowClient


def database(folder: Path) -> str:
    """The URI of the database in the folder, which has no runs at first."""
    file = folder / "mlflow.db"
    if not file.exists():
        file.write_bytes(_tables())
    return f"sqlite:///{file}"


@cache
def _tables() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
        return file.read_bytes()
