"""What a cluster is given for the schedule: launch plans and the tasks around the registry, field by field."""

import subprocess
import sys
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from flyteidl.admin.launch_plan_pb2 import CONCURRENCY_LIMIT_BEHAVIOR_SKIP, LaunchPlan, LaunchPlanSpec
from flyteidl.core.execution_pb2 import WorkflowExecution
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal
from flytekit.tools.translator import get_serializable

from tasks.gdsd.config.evaluate import EvaluateConfig, GateConfig, GuardConfig
from tasks.gdsd.config.hardware import MachineConfig, TrainHardwareConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.promote import Champion
from tests.workflows.conftest import ROOT, environment
from tests.workflows.test_compiled import CPU, GPU, SETTINGS, not_after, unroll
from workflows import retrain

Model = TypeVar("Model", TrainConfig, EvaluateConfig)
# name: (image, resources, timeout, cached, inputs)
TASKS = {
    "find_champion": ("gdsd:cpu", CPU, timedelta(hours=2), False, ["experiment", "kickoff_time", "registry"]),
    "require_champion": ("gdsd:cpu", CPU, timedelta(hours=2), False, ["registry"]),
    "draw_seeds": ("gdsd:cpu", CPU, timedelta(hours=1), False, ["config", "kickoff_time"]),
    "take_policy": (
        "gdsd:gpu",
        GPU,
        timedelta(hours=2),
        True,
        ["guards", "policy", "rooms", "test", "train", "validation"],
    ),
    "promote": ("gdsd:cpu", CPU, timedelta(hours=2), False, ["champion", "kickoff_time", "registry", "run"]),
    "promote_again": ("gdsd:cpu", CPU, timedelta(hours=2), False, ["entry", "registry"]),
    "end_night": ("gdsd:cpu", CPU, timedelta(minutes=30), False, ["result"]),
    "keep_evaluation": (
        "gdsd:cpu",
        CPU,
        timedelta(minutes=30),
        False,
        ["entry", "kickoff_time", "registry", "result"],
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_task_compiles_to_what_is_documented(name: str) -> None:
    """If it fails, a champion is looked up in the cache, or a stage runs on the wrong machine or is never retried."""
    image, resources, timeout, cached, inputs = TASKS[name]
    template = get_serializable(OrderedDict(), SETTINGS, getattr(retrain, name)).to_flyte_idl().template
    container = template.container
    assert container.image == image
    for bound, entries in enumerate((container.resources.requests, container.resources.limits)):
        assert {entry.name: entry.value for entry in entries} == {kind: both[bound] for kind, both in resources.items()}
    assert template.metadata.retries.retries == 2 and template.metadata.interruptible is True
    assert template.metadata.timeout.ToTimedelta() == timeout
    assert template.metadata.discoverable is template.metadata.cache_serializable is cached
    assert sorted(template.interface.inputs.variables) == inputs


def default_config(spec: LaunchPlanSpec, model: type[Model]) -> Model:
    literal = Literal.from_flyte_idl(spec.default_inputs.parameters["config"].default)
    return TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, model)


READ = """
import sys
from collections import OrderedDict
from flytekit.tools.translator import get_serializable
from tests.workflows.test_compiled import SETTINGS
from workflows import retrain

for plan in (retrain.nightly_retrain, retrain.weekly_evaluation):
    sys.stdout.write(get_serializable(OrderedDict(), SETTINGS, plan).to_flyte_idl().SerializeToString().hex() + "\\n")
"""


def compiled(home: Path, **given: str) -> list[LaunchPlan]:
    """The launch plans as a process makes them that has these variables."""
    done = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=ROOT,
        env=environment(home) | given,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [LaunchPlan.FromString(bytes.fromhex(line)) for line in done.stdout.split()]


def test_launch_plans_compile_to_what_is_documented(tmp_path: Path) -> None:
    """If it fails, nothing runs at night, or two runs at once, or without the time that its seeds follow from."""
    wanted = (
        ("nightly_retrain", "workflows.retrain.retrain", "0 2 * * *", TrainConfig()),
        ("weekly_evaluation", "workflows.retrain.evaluate_champion", "0 14 * * 1", EvaluateConfig()),
    )
    for found, (name, workflow, cron, config) in zip(
        compiled(tmp_path, GDSD_REGISTRY="s3://ours/registry"), wanted, strict=True
    ):
        spec = found.spec
        assert found.id.name == name and spec.workflow_id.name == workflow
        schedule = spec.entity_metadata.schedule
        assert schedule.cron_schedule.schedule == cron and schedule.kickoff_time_input_arg == "kickoff_time"
        assert spec.concurrency_policy.max == 1
        assert spec.concurrency_policy.behavior == CONCURRENCY_LIMIT_BEHAVIOR_SKIP
        assert spec.fixed_inputs.literals["registry"].scalar.primitive.string_value == "s3://ours/registry"
        # All that is left to give is the time, which the schedule gives; the experiment may be replaced in a run by
        # hand.
        parameters = spec.default_inputs.parameters
        assert set(parameters) == {"config", "kickoff_time"} and parameters["kickoff_time"].required
        assert default_config(spec, type(config)) == config
        assert list(spec.entity_metadata.notifications) == []


def test_the_settings_of_a_registration_come_from_the_environment(tmp_path: Path) -> None:
    """If it fails, a team's registry, experiment or addresses take an edit of the sources."""
    weekly = tmp_path / "weekly.yaml"
    weekly.write_text("lengths: [16, 32]\n")
    given = {
        "GDSD_REGISTRY": "gs://ours/policies",
        "GDSD_RETRAIN_CONFIG": str(ROOT / "configs/smoke.yaml"),
        "GDSD_WEEKLY_CONFIG": str(weekly),
        "GDSD_NOTIFY": "ann@example.org, bob@example.org",
    }
    failed = {WorkflowExecution.FAILED, WorkflowExecution.TIMED_OUT, WorkflowExecution.ABORTED}
    # The night mails its own success, where it can.
    for server, nightly in (({}, WorkflowExecution.SUCCEEDED), ({"GDSD_MAIL_SERVER": "smtp://relay:25"}, None)):
        specs = [plan.spec for plan in compiled(tmp_path, **given, **server)]
        assert default_config(specs[0], TrainConfig).name == "smoke"
        assert default_config(specs[1], EvaluateConfig).lengths == [16, 32]
        for spec, success in zip(specs, (nightly, WorkflowExecution.SUCCEEDED), strict=True):
            assert spec.fixed_inputs.literals["registry"].scalar.primitive.string_value == "gs://ours/policies"
            (notification,) = spec.entity_metadata.notifications
            assert list(notification.email.recipients_email) == ["ann@example.org", "bob@example.org"]
            assert set(notification.phases) == failed | ({success} if success is not None else set())


ENTRY = "ab" * 32


def night(champion: Champion, config: TrainConfig) -> dict[str, object]:
    """The inputs of a night's training."""
    moment = datetime(2026, 11, 24, 2, tzinfo=UTC)
    return {"champion": champion, "config": config, "registry": "s3://ours/policies", "kickoff_time": moment}


@pytest.mark.parametrize(
    ("champion", "base"),
    [
        (Champion(entry=ENTRY, policy=f"s3://ours/policies/entries/{ENTRY}/policy"), "take_policy"),
        (Champion(entry=None, policy=None), "prepare_policy"),
    ],
)
def test_a_champion_enters_by_the_address_of_its_content(champion: Champion, base: str) -> None:
    """If it fails, the champion is copied for each run, or computed on again what its cached tasks have done already.

    An entry's address has the digest of its content, so that it is a key by content as well.
    """
    hardware = TrainHardwareConfig(policy=MachineConfig(kind="h100"))
    config = TrainConfig(hardware=hardware, judge=GateConfig(guards={"other": GuardConfig(test_size=4)}))
    spec = unroll(retrain.train_champion, night(champion, config))
    names = {node.task_node.reference_id.name.rsplit(".", 1)[-1]: node for node in spec.nodes}
    assert {"prepare_prompts", "prepare_guard", "check_rewards", "prepare_policy", "take_policy"} & set(names) == {
        "prepare_prompts",
        "prepare_guard",
        "check_rewards",
        base,
    }
    placed = names[base].task_node.overrides
    assert placed.extended_resources.gpu_accelerator.device == "nvidia-h100"
    if champion.policy is not None:
        (policy,) = [binding for binding in names[base].inputs if binding.var == "policy"]
        assert policy.binding.scalar.blob.uri == champion.policy


@pytest.mark.parametrize(
    "champion", [Champion(entry=ENTRY, policy="s3://ours/policy"), Champion(entry=None, policy=None)]
)
def test_nothing_is_trained_before_the_rewards_were_checked(champion: Champion) -> None:
    """If it fails, a night whose reward is broken holds GPUs until its check has failed."""
    config = TrainConfig(judge=GateConfig(guards={"other": GuardConfig(test_size=4)}))
    spec = unroll(retrain.train_champion, night(champion, config))
    assert not_after(spec, "check_rewards") == {"prepare_prompts", "prepare_guard"}


def test_a_night_that_has_its_entry_trains_nothing() -> None:
    """If it fails, a night that is repeated costs its GPU hours again, and may promote another policy."""
    spec = unroll(retrain.train_champion, night(Champion(entry=ENTRY, policy=None, made=ENTRY), TrainConfig()))
    (node,) = spec.nodes
    assert node.task_node.reference_id.name == "tasks.promote.promote_again"


def test_what_unrolls_is_a_dynamic_task_on_cpu() -> None:
    """If it fails, a GPU is held while problems are made, or the tasks are launched with images of no registry."""
    template = get_serializable(OrderedDict(), SETTINGS, retrain.train_champion).to_flyte_idl().template
    assert template.container.image == "gdsd:cpu" and not template.metadata.discoverable
    known = {pair.key: pair.value for pair in template.container.env}
    assert known.items() >= {"GDSD_CPU_IMAGE": "gdsd:cpu", "GDSD_GPU_IMAGE": "gdsd:gpu"}.items()
