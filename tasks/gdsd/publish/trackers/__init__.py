"""Trackers of experiments, each behind one small interface; its packages are imported only where it is used."""

from collections.abc import Sequence

from tasks.gdsd.config.publish import MlflowConfig, TensorBoardConfig, Tracker, WandbConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.publish.trackers import base, files
from tasks.gdsd.publish.trackers.mlflow import Mlflow
from tasks.gdsd.publish.trackers.tensorboard import TensorBoard
from tasks.gdsd.publish.trackers.wandb import Wandb


def make(config: Tracker, options: files.Options | None = None) -> base.Tracker:
    """Returns the back end of a configuration.

    Args:
        options: what fsspec's file system takes for its folder, such as an endpoint.
    """
    match config:
        case TensorBoardConfig():
            return TensorBoard(config, options or {})
        case WandbConfig():
            return Wandb(config, options or {})
        case MlflowConfig():
            return Mlflow(config)


def require(configs: Sequence[Tracker]) -> None:
    """Refuses trackers whose packages are not installed where this runs.

    Raises:
        ConfigError: naming the packages and what installs them.
    """
    for config in configs:
        if missing := make(config).missing():
            raise ConfigError(
                f"publish.trackers has {config.name!r}, which needs {', '.join(missing)}, and that is not installed "
                f"here; run `python -m pip install -c constraints.txt {' '.join(missing)}`, build the image with "
                "EXTRAS=tracking (docs/images.md), or leave the tracker out"
            )
