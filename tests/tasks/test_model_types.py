"""What flytekit is told of the project's models."""

from flytekit.core.type_engine import TypeEngine
from pydantic import BaseModel, Field

from tasks.flyte import model_types
from tasks.flyte.types import Checkpoint
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.records import Record
from tasks.gdsd.strict import Config


class Inner(Config):
    """What is inside."""

    rate: float = 0.1


class Outer(Config):
    """What is around."""

    inner: Inner = Inner()
    count: int = Field(3, description="how many")
    names: list[str] = Field(default_factory=list)
    perhaps: Inner | None = None


def test_a_model_is_described_by_its_fields_and_their_words() -> None:
    """If it fails, `pyflyte run ... --help` explains no input, or fills screens with what is inside each."""
    described = TypeEngine.to_literal_type(Outer)
    assert described.metadata == {
        "title": "Outer",
        "type": "object",
        "properties": {
            "inner": {"type": "object", "description": "What is inside."},
            "count": {"type": "integer", "description": "how many"},
            "names": {"type": "array", "items": {"type": "string"}},
            "perhaps": {"anyOf": [{"type": "object", "description": "What is inside."}, {"type": "null"}]},
        },
    }


def test_a_workflow_can_read_the_fields_of_a_promise() -> None:
    """If it fails, `config.prompts` in a workflow does not compile."""
    fields = TypeEngine.to_literal_type(TrainConfig).structure.dataclass_type
    assert fields.keys() == TrainConfig.model_fields.keys()
    assert fields["rounds"] == TypeEngine.to_literal_type(int)


def test_configurations_and_records_are_described_once() -> None:
    """If it fails, each start of pyflyte takes seconds more."""
    assert TypeEngine.to_literal_type(TrainConfig) is TypeEngine.to_literal_type(TrainConfig)
    for base in (Config, Record):
        assert isinstance(TypeEngine.get_transformer(base), model_types.ModelTransformer)


def test_other_models_keep_flytekits_own_description() -> None:
    """If it fails, a task's result that holds files is described without them."""

    class Box(BaseModel):
        policy: Checkpoint

    assert not isinstance(TypeEngine.get_transformer(Box), model_types.ModelTransformer)
