"""Stage `distill`: one epoch of an objective, GDSD by default, on a round's rewarded completions."""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flytekit import FlyteContextManager, current_context
from flytekit.extend import IgnoreOutputs
from flytekit.types.file import FlyteFile

from images.nodes import ENDPOINT, Nodes
from tasks.flyte.attempts import states
from tasks.flyte.console import speak
from tasks.flyte.local import in_pod, keep, new_folder
from tasks.flyte.stage import gpu_task
from tasks.flyte.types import Checkpoint, Table, stored
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.errors import ConfigError, NonFiniteError
from tasks.gdsd.records import EpochStats

if TYPE_CHECKING:
    from tasks.gdsd.distill.machines import Machines

STORE_SECONDS = 3600.0  # for another machine to store what came of an epoch


class Distilled(NamedTuple):
    checkpoint: Checkpoint
    stats: EpochStats


@gpu_task(hours=6)
def distill_epoch(
    policy: Checkpoint, base: Checkpoint, rewarded: Table, config: DistillConfig, group_size: int, round: int, seed: int
) -> Distilled:
    """Trains the policy on a round's rewarded completions, for a few updates, in as many processes as configured.

    The processes are started on the machine that the task runs on, so that a local run has them as well, and their
    number is a matter of the run's configuration rather than of the registered task.

    On a cluster the epoch's state is stored as Flyte's checkpoint every `distill.compute.save_minutes`, and an attempt
    after one that was killed goes on from there. A local run has no such attempts.

    Raises:
        NonFiniteError: several updates in a row were not finite; the evidence was saved.
        OutOfMemoryError: there is not enough memory for the smallest micro-batch.
    """
    return _distill(policy, base, rewarded, config, group_size, round, seed, None)


@gpu_task(hours=6, nodes=Nodes(2))
def distill_epoch_on_nodes(
    policy: Checkpoint, base: Checkpoint, rewarded: Table, config: DistillConfig, group_size: int, round: int, seed: int
) -> Distilled:
    """Trains the policy as `distill_epoch` does, on several machines of a cluster, each of which calls this.

    Raises:
        ConfigError: the Kubeflow training operator has not started this.
        IgnoreOutputs: another machine has what came of it.
        VanishedError: a machine was taken away.
    """
    from tasks.gdsd.distill.machines import ElsewhereError, Machines, VanishedError

    endpoint = os.environ.get(ENDPOINT)
    if endpoint is None:
        raise ConfigError(
            f"distill.compute.nodes {config.compute.nodes}: nothing has set {ENDPOINT}, so this is no PyTorchJob of "
            "the Kubeflow training operator. Let the cluster's administrator enable Flyte's plugin for tasks of type "
            "pytorch (docs/cluster.md), or set nodes to 1"
        )
    try:
        machines = Machines(endpoint, config.compute.nodes)
        return _distill(policy, base, rewarded, config, group_size, round, seed, machines)
    except ElsewhereError as error:
        # To the operator the job is done once any pod has ended well, and then it stops those that have not.
        if not _is_stored():
            raise VanishedError(f"{error}, but has stored nothing of it within {STORE_SECONDS:.0f} s") from error
        raise IgnoreOutputs(str(error)) from error


def _distill(
    policy: Checkpoint,
    base: Checkpoint,
    rewarded: Table,
    config: DistillConfig,
    group_size: int,
    round: int,
    seed: int,
    machines: "Machines | None",
) -> Distilled:
    """Trains on this machine, as one of several if there are more."""
    from tasks.gdsd.distill import resume
    from tasks.gdsd.distill.epoch import Epoch, train

    with nullcontext() if machines is None else machines.preparing():
        first = machines is None or machines.number == 0
        found, send = states(first, resume.FILE) if in_pod() else (None, None)
        folder, table = Path(os.fspath(policy)), Path(os.fspath(rewarded))
        trained, evidence = new_folder("policy") / "checkpoint", new_folder("evidence")
        epoch = Epoch(
            policy=folder,
            base=reference(folder, base, config),
            rewarded=table,
            config=config,
            group_size=group_size,
            round_index=round,
            seed=seed,
            trained=trained,
            evidence=evidence,
            found=found,
            send=send,
            speak=speak,
        )
    try:
        stats = train(epoch, machines)
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} Weights and batch are in {keep(evidence)}.") from error
    evidence.rmdir()
    return Distilled(stored(trained), stats)


def reference(policy: Path, base: Checkpoint, config: DistillConfig) -> Path | None:
    """Returns the folder of the base where the objective needs one that the policy with its adapter off is not."""
    from tasks.gdsd.denoiser import checkpoint_record

    needed = config.objective.needs_reference and (
        not checkpoint_record.read_record(policy).adapter or _has_trained_adapter(base)
    )
    return Path(os.fspath(base)) if needed else None


def _has_trained_adapter(base: Checkpoint) -> bool:
    """Whether a base with an adapter is an earlier run's policy; read without the rest, which is not needed if not."""
    from tasks.gdsd.denoiser import checkpoint_record

    record = FlyteFile.from_source(f"{base.remote_source or base.path}/{checkpoint_record.RECORD}")
    return checkpoint_record.read_record(Path(os.fspath(record)).parent).parent is not None


def _is_stored() -> bool:
    """Waits until another machine has stored outputs or an error for Flyte; says whether it has."""
    from tasks.gdsd import transient

    place = current_context().output_metadata_prefix
    files = FlyteContextManager.current_context().file_access.get_filesystem_for_path(place)
    deadline = time.monotonic() + STORE_SECONDS
    while True:
        try:
            files.invalidate_cache()
            names = [Path(address).name for address in files.ls(place, detail=False)]
        except FileNotFoundError:
            names = []
        except Exception as error:
            if not transient.may_pass(error):
                raise
            names = []
        if any(name == "outputs.pb" or name.startswith("error") for name in names):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
