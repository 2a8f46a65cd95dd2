"""Running a task as a pod does, in this process: inputs, outputs and errors are files."""

from dataclasses import dataclass
from pathlib import Path

from flyteidl.core import errors_pb2, literals_pb2
from flytekit import FlyteContextManager, PythonFunctionTask
from flytekit.bin.entrypoint import _dispatch_execute, setup_execution
from flytekit.core.type_engine import TypeEngine

from tasks.flyte.console import speak_in_words

speak_in_words()  # again, since in a pod the program that was just imported comes before any of our modules


@dataclass(frozen=True)
class Attempt:
    """What Flyte is told of an attempt at a task."""

    error: errors_pb2.ContainerError | None
    outputs: literals_pb2.LiteralMap | None

    @property
    def retried(self) -> bool:
        """Whether Flyte would try again."""
        assert self.error is not None
        return self.error.kind == errors_pb2.ContainerError.RECOVERABLE


def attempt(task: PythonFunctionTask, folder: Path, previous: Path | None = None, **inputs: object) -> Attempt:
    """Runs a task whose checkpoint goes to `folder / "checkpoint"`, after an attempt that had `previous`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outputs").mkdir()
    with setup_execution(
        raw_output_data_prefix=str(folder / "raw"),
        output_metadata_prefix=str(folder / "outputs"),
        checkpoint_path=str(folder / "checkpoint"),
        prev_checkpoint="" if previous is None else str(previous / "checkpoint"),
    ) as context:
        assert context is FlyteContextManager.current_context() and context.execution_state is not None
        types = dict(task.python_interface.inputs)
        literals = TypeEngine.dict_to_literal_map(context, dict(inputs), types)
        (folder / "inputs.pb").write_bytes(literals.to_flyte_idl().SerializeToString())
        Path(str(context.execution_state.working_dir)).mkdir(parents=True, exist_ok=True)
        _dispatch_execute(context, lambda: task, str(folder / "inputs.pb"), str(folder / "outputs"))
    error, outputs = folder / "outputs" / "error.pb", folder / "outputs" / "outputs.pb"
    return Attempt(
        errors_pb2.ErrorDocument.FromString(error.read_bytes()).error if error.is_file() else None,
        literals_pb2.LiteralMap.FromString(outputs.read_bytes()) if outputs.is_file() else None,
    )
