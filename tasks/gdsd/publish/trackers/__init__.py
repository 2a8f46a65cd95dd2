"""Trackers of experiments: what a run has recorded comes in, again and again, and a tracker has the run once.

Each tracker has a module, which imports the tracker's packages only where it is used. Read `base` first.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from tasks.gdsd.config.publish import SQLITE, MlflowConfig, TensorBoardConfig, Tracker, WandbConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.publish.trackers import mlflow, tensorboard, wandb
from tasks.gdsd.publish.trackers.base import TrackedRun


def track(config: Tracker, run: TrackedRun, report: Path | None, key: str | None, options: Mapping[str, object]) -> str:
    """Tells a tracker of a run; returns where it is to be found.

    A tracker has each round once, however often it is told of it, and a run that goes on as one run.

    Args:
        report: the page of a run that has ended.
        key: the tracker's secret, where it needs one.
        options: what fsspec's file system takes for its folder, such as an endpoint.

    Raises:
        PublishError: the tracker refuses.
        UnreachableError: it may work later.
    """
    match config:
        case TensorBoardConfig():
            return tensorboard.track(config, run, report, options)
        case WandbConfig():
            return wandb.track(config, run, report, key, options)
        case MlflowConfig():
            return mlflow.track(config, run, report, key)


def told(config: Tracker) -> str:
    """Returns a tracker's name and place, for messages."""
    match config:
        case TensorBoardConfig():
            return f"tensorboard in {config.folder}"
        case WandbConfig():
            return f"wandb project {config.project}"
        case MlflowConfig():
            return f"mlflow at {config.uri}"


def require(configs: Sequence[Tracker]) -> None:
    """Refuses trackers whose packages are not installed where this runs.

    Raises:
        ConfigError: naming the packages and what installs them.
    """
    for config in configs:
        packages: dict[str, str] = {config.name: config.name}  # as pip names them, by what is imported
        if isinstance(config, MlflowConfig):
            packages = {"mlflow": "mlflow-skinny"}
            if config.uri.startswith(SQLITE):
                packages |= {"sqlalchemy": "sqlalchemy", "alembic": "alembic"}
        if missing := " ".join(package for module, package in packages.items() if not find_spec(module)):
            raise ConfigError(
                f"publish.trackers has {config.name!r}, which needs {missing}, and that is not installed here; run "
                f"`python -m pip install -c constraints.txt {missing}`, build the image with EXTRAS=tracking "
                "(docs/images.md), or leave the tracker out"
            )
