"""What the launch plans of a schedule are made of: read from the environment when they are registered, and checked.

What would fail in a pod at night is refused here, by the name of its variable and its file.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from croniter import croniter

from images import CPU, GPU
from tasks.flyte.own_code import ship_own
from tasks.gdsd import files
from tasks.gdsd.config import loading
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.model_source import MODELS, ModelFolder
from tasks.gdsd.config.prompts import PromptFile
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError, RegistryError
from tasks.gdsd.registry.kept import SHORT
from tasks.gdsd.registry.store import require_shared
from tasks.gdsd.strict import Config, models
from tasks.mail import NOTIFY, SERVER, Post, read_post
from tasks.publish import require_shared_places

REGISTRY, RETRAIN, WEEKLY = "GDSD_REGISTRY", "GDSD_RETRAIN_CONFIG", "GDSD_WEEKLY_CONFIG"
NAMES = NIGHTLY_PLAN, WEEKLY_PLAN = "nightly_retrain", "weekly_evaluation"
NO_PLANS = (
    f"{REGISTRY} is not set, so there is no {NIGHTLY_PLAN} and no {WEEKLY_PLAN} to register or start; set it to the "
    "address of the registry, such as s3://BUCKET/registry"
)

Configuration = TypeVar("Configuration", bound=Config)


@dataclass(frozen=True)
class Plan:
    """What a launch plan does, and when."""

    name: str
    cron: str  # in UTC
    registry: str
    config: TrainConfig | EvaluateConfig
    source: str  # where the configuration comes from, in words
    post: Post

    def inputs(self) -> str:
        """Returns all that was read from the environment, as a text that changes with it."""
        return "\n".join([self.registry, *self.post.recipients, self.config.model_dump_json()])

    def describe(self, now: datetime) -> str:
        """Returns all that will run, for a person to read before it does."""
        following = croniter(self.cron, now.astimezone(UTC)).get_next(datetime)
        experiment = f"{self.config.name}, of " if isinstance(self.config, TrainConfig) else "evaluation, of "
        rows = {
            "registry": self.registry,
            "experiment": experiment + self.source,
            "images": f"{CPU.image}, {GPU.image}",
            "mails to": ", ".join(self.post.recipients) or f"nobody, since {NOTIFY} is not set",
            "mails by": self._server(),
            "files": ", ".join(_files(self.config)) or "none",
            "next time": f"{following:%A, %Y-%m-%d %H:%M} UTC, once this version is active",
        }
        return "\n".join([self.name, *(f"  {name:11} {value}" for name, value in rows.items())])

    @property
    def mails_outcome(self) -> bool:
        """Whether its last task writes how it ended, so that Flyte need not say that it did."""
        return self.name == NIGHTLY_PLAN and self.post.server is not None

    def _server(self) -> str:
        if not self.post.recipients:
            return "nobody"
        if self.mails_outcome:
            return f"{self.post.server}, of its outcome; by Flyte, if it fails"
        outcome = f", since {SERVER} is not set: without the outcome" if self.name == NIGHTLY_PLAN else ""
        return f"Flyte{outcome}"


def read(variables: Mapping[str, str]) -> tuple[Plan, Plan] | None:
    """Returns the nightly and the weekly plan that the environment asks for, None where it names no registry.

    Raises:
        ConfigError: a variable, or the file that it names, cannot be used by pods.
    """
    if (registry := variables.get(REGISTRY)) is None:
        return None
    try:
        require_shared(registry)
    except RegistryError as error:
        raise ConfigError(f"{REGISTRY} {error}") from None
    post = read_post(variables)
    train, train_source = _configured(TrainConfig, RETRAIN, variables)
    weekly, weekly_source = _configured(EvaluateConfig, WEEKLY, variables)
    return (
        Plan(NIGHTLY_PLAN, "0 2 * * *", registry, train, train_source, post),
        Plan(WEEKLY_PLAN, "0 14 * * 1", registry, weekly, weekly_source, post),
    )


def registers() -> bool:
    """Whether the running command hands the launch plans to a cluster."""
    return not {"register", "package", "serialize", "--remote", "-r"}.isdisjoint(sys.argv[1:])


def announced(plans: tuple[Plan, Plan] | None) -> str | None:
    """Returns what the running command should say of the plans; None where it does not register them."""
    words = sys.argv[1:]
    if "register" in words:
        return NO_PLANS if plans is None else "\n".join(plan.describe(datetime.now(UTC)) for plan in plans)
    return "\n".join(plan.describe(datetime.now(UTC)) for plan in plans or () if plan.name in words) or None


def _configured(model: type[Configuration], variable: str, variables: Mapping[str, str]) -> tuple[Configuration, str]:
    """Reads the configuration whose file a variable names, and says where it comes from."""
    if (file := variables.get(variable)) is None:
        return model(), f"the default, since {variable} is not set"
    try:
        if not file:
            raise ConfigError("it names no file; name one, or leave the variable unset for the default")
        config = loading.load(model, file)
        ship_own(config)
        for place, part in models(config):
            if isinstance(part, PromptFile):
                _require_in_pods(place, part, Path(file).absolute().parent)
            elif isinstance(part, ModelFolder) and Path(part.path).is_relative_to(Path(file).absolute().parent):
                raise ConfigError(
                    f"{place}.path {part.path!r} is a folder beside the configuration, which pods do not have; name "
                    "one on a volume that they mount, or a model of the hub"
                )
            elif isinstance(part, PublishConfig):
                require_shared_places(part)
    except OSError as error:
        raise ConfigError(f"{variable}={file} cannot be read: {error.strerror}") from None
    except ConfigError as error:
        words, *lines = (line.strip() for line in str(error).splitlines())
        raise ConfigError(f"{variable}={file}: {words} {'; '.join(lines)}".rstrip()) from None
    return config, file


def _require_in_pods(place: str, source: PromptFile, folder: Path) -> None:
    """Refuses a file of this machine, and an address that is none; what is not here may be on a volume of the pods.

    Args:
        folder: of the configuration, below which a path was relative to it, or is as good as that.
    """
    if files.is_shared(source.path):
        return
    path = source.path.rpartition("::")[2].removeprefix("file://").removeprefix("local://")
    if "://" in path:
        raise ConfigError(
            f"{place}.path {source.path!r} is no address that pods can read; name one such as "
            "s3://BUCKET/problems.parquet"
        )
    if os.path.exists(path) or Path(path).is_relative_to(folder):
        raise ConfigError(
            f"{place}.path {source.path!r} is a file of this machine, which pods do not have; upload it, and name its "
            "address, such as s3://BUCKET/problems.parquet"
        )


def _files(config: Config) -> list[str]:
    """What a run reads beside its configuration, as it is pinned."""
    found = []
    for _, part in models(config):
        if isinstance(part, PromptFile | ModelFolder):
            place = "" if files.is_shared(part.path) else f", {_whose(part)}"
            found.append(f"{part.path} (sha256 {part.sha256[:SHORT]}{place})")
    return found


def _whose(part: PromptFile | ModelFolder) -> str:
    if os.path.isdir(part.path):
        return f"of this machine; pods need it at the same path, or below one of {MODELS}"
    return "on a volume of the pods"
