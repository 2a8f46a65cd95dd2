"""Where problems come from: a domain that makes them, or files and data sets, pinned by their content."""

import hashlib
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from tasks.gdsd import files
from tasks.gdsd.config.written import PIN, require_file
from tasks.gdsd.domains import DomainChoice, make
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.strict import Config, Count, Place, local_or_hub

PASSWORD = re.compile(r"://[^/@]*:[^/]*@")  # of a user of an address, or of a link of a chain


class PromptFile(Config):
    """A prompt file, pinned by its content so that an edited file is never answered from the cache."""

    path: Place = Field(
        description="Parquet, JSON lines or CSV; a path, relative to the configuration's file, or any fsspec URI"
    )
    sha256: str = Field(
        default_factory=lambda data: _pin(data["path"]),
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the file; read from the file when the configuration is loaded, if not given",
    )

    @field_validator("path")
    @classmethod
    def _check(cls, path: str) -> str:
        if PASSWORD.search(path):  # which is not shown
            raise ValueError(
                "this has a password, which would be in every record of the run; leave it out, and give access by the "
                "environment, as the library of the store asks for it"
            )
        return path


class HubDataset(Config):
    """A data set on the Hugging Face hub, pinned by its revision."""

    hub: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="the data set's id, such as openai/gsm8k")
    subset: str | None = Field(
        None, min_length=1, description="one of its configurations; null where there is one only"
    )
    split: str = Field("train", min_length=1, description="its split, not ours; slices such as train[:100] are allowed")
    revision: str = Field(pattern="^[0-9a-f]{40}$", description="the commit; a branch or a tag could move")


def _pin(path: str) -> str:
    try:
        if "://" not in path and "::" not in path:
            require_file(path)
        with files.open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except ConfigError as error:
        raise ConfigError(f"{error}{PIN}") from None
    except Exception as error:  # each store's library raises what it likes
        raise ConfigError(
            f"prompt file {path!r} cannot be read to pin its content ({error}); correct the path{PIN}"
        ) from None


Source = Annotated[Annotated[PromptFile, Tag("path")] | Annotated[HubDataset, Tag("hub")], Discriminator(local_or_hub)]


Unusable = Literal["refuse", "drop"]


class Room(Config):
    """What a policy has to have room and characters for, to be asked the problems of a table."""

    problems: str = Field(description="which they are, in words")
    section: str = Field("prompts", description="part of the configuration that says what they are")
    sampler: str = Field("evaluation.sampler", description="part of the configuration that says the length")
    length: int = Field(ge=1, description="tokens of a completion")
    writes_references: bool = Field(False, description="whether the policy has to be able to write the references")
    teaches_references: bool = Field(False, description="whether a warm start teaches the policy to write them")
    unusable: Unusable = Field("refuse", description="problems without room, or that the policy cannot read or write")
    least: int = Field(1, ge=1, description="problems with fewer of which nothing can be done")


class TestConfig(Config):
    """Test problems of a domain: generated from a seed, or read from a file or data set."""

    __test__ = False  # no test of ours, whatever pytest takes its name for
    section: ClassVar[str] = "prompts"  # where a configuration has it

    domain: DomainChoice = DomainChoice(SudokuConfig())
    seed: int = Field(0, description="draws generated problems, and which ones are taken of a source")
    test_size: Count = Field(
        512, description="problems of the final comparison; nothing is chosen on them. Of a source: at most"
    )
    test_data: Source | None = Field(None, description="test problems from a file or the hub")
    columns: dict[str, str] = Field(
        {}, description="which column of the sources holds what: a name that the domain reads -> the source's name"
    )
    unusable: Unusable = Field(
        "refuse",
        description="rows of a source that make no usable problem (not readable, the same as an earlier one, or too "
        "long for the policy): stop, or leave them out",
    )

    @property
    def sources(self) -> list[PromptFile | HubDataset]:
        """What is read rather than generated."""
        return [source for source in (self.test_data,) if source is not None]

    def rule(self) -> Self:
        """Returns what decides the problems; see `DomainChoice.rule`."""
        return self.model_copy(update={"domain": self.domain.rule()})

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        domain, read = make(self.domain), {"id", "prompt", "problem", "reference"}
        if not domain.generates and self.test_data is None:
            raise ValueError(f"{self.domain.name} problems are not generated, so they need a source; set test_data")
        if self.unusable == "drop" and not self.sources:
            raise ValueError("unusable 'drop' is about rows of a source, and there is none; leave it out")
        if self.columns and not self.sources:
            raise ValueError("columns are those of a source, and there is none; leave them out, or name a source")
        if unknown := sorted(set(self.columns) - read - set(domain.columns)):
            raise ValueError(
                f"columns has {', '.join(unknown)}, but {self.domain.name} reads {', '.join(domain.columns)}, "
                f"or {', '.join(sorted(read))}"
            )
        named = list(self.columns.values())
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"columns names {', '.join(twice)} more than once, but a column holds one thing")
        return self


class PromptConfig(TestConfig):
    """The problems of a run: generated from a seed, or read from files and data sets."""

    train_seed: int | None = Field(
        None,
        description="draws training and validation problems where they should differ from run to run and test problems "
        "should not; null: `seed` draws them too",
    )
    train_size: Count = Field(8192, description="training problems; rounds cycle through them. Of a source: at most")
    validation_size: Count = Field(256, description="problems that choose the best round. Of a source: at most")
    train_data: Source | None = Field(None, description="training problems from a file or the hub")
    validation_data: Source | None = Field(
        None, description="validation problems; null generates them, or else sets training problems aside"
    )
    near_duplicates: Unusable = Field(
        "refuse",
        description="problems of one split that are nearly those of another: stop, or leave them out. The test stays "
        "whole: validation gives way to it, training to both, and a guard to training",
    )
    similarity: float = Field(
        0.7,
        gt=0,
        le=1,
        description="shared part of two problems' features (Jaccard) from which they are near-duplicates",
    )

    @property
    def sources(self) -> list[PromptFile | HubDataset]:
        """What is read rather than generated."""
        both = (self.train_data, self.validation_data, self.test_data)
        return [source for source in both if source is not None]
