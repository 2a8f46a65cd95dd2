"""Where a finished run is published: trackers of experiments, and the Hugging Face hub. No field holds a secret."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tasks.gdsd.strict import Config, Located, Place, distinct

SQLITE = "sqlite:///"  # before a file


class TensorBoardConfig(Config):
    """Event files that TensorBoard reads: a folder for each run."""

    name: Literal["tensorboard"] = "tensorboard"
    folder: Place = Field(
        description="path, relative to the configuration's file, or URL of the folder of all runs, which "
        "`tensorboard --logdir` is given"
    )


class WandbConfig(Config):
    """A run in Weights & Biases, or its files for `wandb sync`."""

    name: Literal["wandb"] = "wandb"
    project: str = Field(pattern=r"^[A-Za-z0-9][\w.-]{0,127}$", description="the project of the run")
    entity: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][\w.-]{0,127}$", description="user or team; null: that of the key"
    )
    mode: Literal["online", "offline"] = Field(
        "online", description="offline writes files for `wandb sync` and needs no key"
    )
    folder: Place | None = Field(
        None,
        description="path, relative to the configuration's file, or URL of the folder of such files; with mode offline "
        "only",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "offline" and self.folder is None:
            raise ValueError("mode 'offline' writes files, and there is no folder for them; set folder")
        if self.mode == "online" and self.folder is not None:
            raise ValueError(
                f"folder {self.folder!r} is for mode 'offline', and mode is 'online'; leave it out, or set mode"
            )
        return self


class MlflowConfig(Config):
    """A run on an MLflow server, or in a database of MLflow's."""

    name: Literal["mlflow"] = "mlflow"
    uri: Annotated[str, Located(SQLITE)] = Field(
        pattern=r"^(https?://[^\s/]+|sqlite:///\S+)",
        description="the tracking server, or sqlite:///FILE on one's own machine, relative to the configuration's file",
    )
    experiment: str = Field(
        "gdsd", min_length=1, max_length=200, description="the experiment of the run; made if it is not there"
    )
    token: bool = Field(False, description="whether the server asks for a token, which is a secret of the cluster")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "@" in urlsplit(self.uri).netloc:
            raise ValueError(
                "uri has a user or password, which would be in every record of the run; leave it out, and set token"
            )
        if self.token and self.uri.startswith("sqlite:"):
            raise ValueError("token is for a server, and uri is a file; leave it out")
        return self


Tracker = Annotated[TensorBoardConfig | WandbConfig | MlflowConfig, Field(discriminator="name")]


class HubConfig(Config):
    """A repository of the Hugging Face hub that a run's policy is pushed to, with its model card."""

    repo: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$",
        max_length=96,
        description="its id, such as org/name; made if it is not there",
    )
    private: bool = Field(
        True,
        description="whether a repository that is made is private; one that exists stays as it is, and a public one is "
        "refused unless this is false",
    )
    overwrite: bool = Field(
        False,
        description="whether files in it that no push of this pipeline has left there may be replaced or removed, "
        "where the policy has files of these names or could not be loaded beside them",
    )
    when: Literal["promoted", "always"] = Field(
        "promoted", description="whether a policy that the gate does not promote is pushed too"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if re.search(r"--|\.\.|[.-](/|$)|\.git$", self.repo):
            raise ValueError(
                f"repo {self.repo!r} is no name that the hub takes: no part may end in '.' or '-' or have two of them "
                "in a row, and none ends in .git; choose another"
            )
        return self


class PublishConfig(Config):
    """What happens to a run beyond its own folder: nothing, unless it says so."""

    licence: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$",
        description="the licence in the model card, by the hub's name for it, such as apache-2.0; null: the base's, "
        "where it is known",
    )
    pipeline: str | None = Field(
        None,
        pattern=r"^https?://[\w.-]+(:\d+)?(/[\w.~-]+)*/?$",
        max_length=300,
        description="the address of the pipeline's sources, from which the model card lets a reader install what loads "
        "the policy, such as https://github.com/org/name; null: the card has none",
    )
    trackers: list[Tracker] = Field([], description="where configuration, metrics and results go")
    hub: HubConfig | None = Field(None, description="where the policy goes, with its card")

    _distinct = field_validator("trackers")(distinct)
