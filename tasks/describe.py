"""Says what an experiment needs, before anything is spent.

python -m tasks.describe configs/llada_gsm8k.yaml --device h100
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tasks.flyte.store_options import storage_options
from tasks.gdsd import files
from tasks.gdsd.config import loading, written
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.model_source import ModelFolder
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser.families.base import Family
from tasks.gdsd.errors import GdsdError
from tasks.gdsd.planning.capacity import Assumptions
from tasks.gdsd.planning.comparison import Comparison, of_comparison
from tasks.gdsd.planning.plan import READ, Plan, plan, table, task_size
from tasks.gdsd.planning.shapes import Shape, shape_of
from tasks.gdsd.planning.ways import Way, resident, staged, why_not_resident
from tasks.gdsd.planning.work import DEVICES, Device, reached_by_cpu

files.use(storage_options)  # of prompt files, which are pinned when a configuration is loaded

# What only a comparison has and what only an experiment has, by which their files are known.
COMPARED = CompareConfig.model_fields.keys() - TrainConfig.model_fields.keys()
TRAINED = TrainConfig.model_fields.keys() - CompareConfig.model_fields.keys()


def measure_cpu(width: int) -> Device:
    """Times products of two matrices on this machine's CPU; its memory is what the machine has.

    The fastest of several counts: the first ones start threads and fill caches, and others may use the machine.
    """
    import numpy as np

    size = 2048
    left, seconds = np.ones((size, size), np.float32), []
    for _ in range(6):
        began = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - began)
    peak = 2 * size**3 / min(seconds)
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")]
    return Device("this machine's CPU", int(line.split()[1]) / 2**20, peak, peak, reached_by_cpu(width), is_gpu=False)


def read(path: str, changed: Sequence[str] = ()) -> tuple[TrainConfig | CompareConfig, Family, Shape]:
    """Returns the experiment or comparison of a file, and family and shape of its model.

    Args:
        changed: fields with the values that they have instead, such as `rollout.group_size=8`.

    Raises:
        OSError: the file cannot be read.
        GdsdError: it is no YAML or JSON, it or a changed field is refused, or the model is not known.
    """
    names = json.loads(written.read(path)).keys()
    config: TrainConfig | CompareConfig
    if len(COMPARED & names) > len(TRAINED & names):
        config = loading.load(CompareConfig, path, changed)
    else:
        config = loading.load(TrainConfig, path, changed)
    return config, *shape_of(config.policy)


def device_of(config: TrainConfig | CompareConfig, shape: Shape, named: str | None) -> Device:
    """Returns the named device, or else the one that the configuration trains on; h100 where that says just gpu."""
    kind = config.hardware.distill.kind
    chosen = named or ("cpu" if kind == "cpu" else kind if kind in DEVICES else "h100")
    return measure_cpu(shape.width) if chosen == "cpu" else DEVICES[chosen]


def model(found: Plan, name: str, assumed: str) -> list[str]:
    """Returns the first lines: the model, and the prompts with where their length comes from."""
    trained = (
        f"and {found.adapter:,} of an adapter, which alone are trained" if found.adapter else "all of them trained"
    )
    return [
        f"{name}: {found.family}, {found.parameters:,} parameters, {trained}",
        f"prompts of {found.prompt_tokens} tokens ({assumed})",
    ]


def speeds(found: Plan, device: Device) -> dict[str, str]:
    """Returns what products of each kind reach of the device's peak in their precision."""
    half, full = (
        f"{device.reached:.0%} of {peak / 1e12:.3g} TFLOP/s in {precision}"
        for peak, precision in ((device.half, "bfloat16"), (device.full, "float32"))
    )
    rolled, trained = half if found.halves else full, half if found.distill_halves else full
    network = rolled if rolled == trained else f"{rolled}, {trained} in training"
    return {"network": network, "logits": full, "adapter": full}


def shares(found: Plan, device: Device) -> list[str]:
    """Returns how the seconds of a round follow: the share of each kind of products, and at what speed they are."""
    rollout = found.rollout_work.parts(device, found.halves)
    distill = found.distill_work.parts(device, found.distill_halves)
    return [
        f"{f'  in the {kind}':22}{rollout[kind] / sum(rollout.values()):10.1%}"
        f"{distill[kind] / sum(distill.values()):10.1%}   of these seconds, at {speed}"
        for kind, speed in speeds(found, device).items()
        if rollout[kind] or distill[kind]
    ]


def loads(found: Plan) -> list[str]:
    """Returns how often the model is loaded, and how long that takes."""
    each = found.loads
    rollouts, seconds, of = each.rollouts + each.drifts, each.round_seconds, "a round"
    if found.tasks:
        rollouts, seconds, of = 0, each.task_seconds, f"each of {found.tasks} tasks of rounds"
    hashing = f", and hashes {each.hashed / 1e9:.3g} GB of the local folder" if each.hashed else ""
    return [
        f"{'loads of the model':22}{rollouts:10}{each.epochs:10}   {of}, and {each.evaluations} for the "
        "evaluations: one for each shard or process",
        f"{'seconds of loading':22}{seconds:10.3g}   {of}, at {READ / 1e9:.3g} GB/s: one for sampling reads "
        f"{each.sampled / 1e9:.3g} GB{hashing}",
    ]


def both_ways(config: TrainConfig, found: Plan, device: Device, assumed: Assumptions) -> list[str]:
    """Returns what the run takes on a cluster both ways: a line for each with its reason, and which is cheaper."""
    fault, stays = why_not_resident(config), config.rounds_per_task > 1
    one, other = staged(config, found, device, assumed), resident(config, found, device, assumed)
    most, devices = min(task_size(config), config.rounds), f"{other.held} device{'s' * (other.held > 1)}"
    columns = ("by clock", "money", "work", "starts", "loads", "writes", "waits")
    lines = [
        f"{'on a cluster, hours':22}{'of devices':>10}{''.join(f'{column:>10}' for column in columns)}",
        _row(one, "staged", not stays, f"{one.pods} pods for the rounds, each of which loads the model"),
    ]
    if fault is None:
        reason = f"{other.pods} tasks of {most} rounds at most, on {devices}, which wait for verdicts"
        lines += [_row(other, "resident", stays, reason), cheaper(one, other)]
    else:
        lines.append(f"{'resident':22}{'impossible':>10}   {fault}")
    return [
        *lines,
        f"if all is on {device.name}, machines come at once and stay, a pod works after "
        f"{assumed.pod + assumed.imports:g} s ({assumed.pod:g} of its start, {assumed.imports:g} of imports) and "
        f"{assumed.verdicts:g} answers are judged a second",
    ]


def _row(way: Way, name: str, configured: bool, reason: str) -> str:
    money = "no price" if way.money is None else f"{way.money:.4g}"
    hours = (way.clock, way.work, way.starts, way.loads, way.writes, way.waits)
    clock, *parts = (f"{each:10.3g}" for each in hours)
    return f"{name + ' (configured)' * configured:22}{way.hours:10.3g}{clock}{money:>10}{''.join(parts)}   {reason}"


def cheaper(one: Way, other: Way) -> str:
    """Says whether to stay in memory is cheaper, in money where that is known, and whether it is quicker."""
    before, after, unit = one.hours, other.hours, "device-hours"
    if one.money is not None and other.money is not None:
        before, after, unit = one.money, other.money, "of money"
    name = "resident" if after < before else "staged"
    pace = one.clock / other.clock if after < before else other.clock / one.clock
    speed = f"is {pace:.2g} times as fast" if pace >= 1 else f"takes {1 / pace:.2g} times as long"
    saved, most = abs(before - after), max(before, after)
    return f"cheaper: {name}, by {saved:.3g} {unit} ({saved / most:.0%}); it {speed} by the clock"


def fits(peak: float, device: Device) -> str:
    """Says whether a device has as many bytes."""
    return f"{'fits' if peak <= device.gib * 2**30 else 'exceeds'} {device.name}'s {device.gib:.0f} GiB"


def describe(found: Plan, device: Device, name: str, assumed: str) -> str:
    """Returns the text: memory by stage, time by stage, and the whole run.

    Args:
        assumed: where the length of prompts comes from.
    """
    lines = [
        *model(found, name, assumed),
        f"{found.completions} completions a round, {found.micro_batch} of them per forward pass of training",
        "",
        f"{'GiB on each device':22}{'rollout':>10}{'distill':>10}{'evaluation':>12}",
    ]
    lines += [
        f"{kind:22}{values[0]:10.2f}{values[1]:10.2f}{values[2]:12.2f}"
        for kind, values in table({"rollout": found.rollout, "distill": found.distill, "evaluation": found.evaluation})
    ]
    rollout, distill = found.rollout_seconds(device), found.distill_seconds(device)
    drift = [
        f"{'seconds of drift':22}{found.drift_seconds(device):10.3g}   a round, of both engines"
    ] * found.loads.drifts
    lines += [
        fits(found.peak, device),
        "",
        f"{'seconds of one device':22}{rollout:10.3g}{distill:10.3g}   a round, if every group carries "
        f"a signal{' and no completion is over early' if found.may_end_early else ''}",
        *shares(found, device),
        f"{'PFLOP':22}{found.rollout_work.total / 1e15:10.3g}{found.distill_work.total / 1e15:10.3g}",
        *drift,
        *loads(found),
        f"{'hours of one device':22}{found.hours(device):10.3g}   the run: {found.rounds} rounds, of which "
        f"{found.evaluation_hours(device):.3g} for its evaluations and {found.load_hours:.3g} for loads",
    ]
    return "\n".join(lines)


def describe_comparison(found: Comparison, device: Device, name: str, assumed: str) -> str:
    """Returns the text of a comparison: a line for each contestant, and the whole.

    Args:
        assumed: where the length of prompts comes from.
    """
    base = found.base
    lines = [
        *model(base, f"{name}, a comparison", assumed),
        f"{base.completions} completions a round, {base.rounds} rounds a run, {found.runs} runs",
        "",
        f"{'of one device':28}{'GiB':>8}{'rollout':>10}{'distill':>10}{'in logits':>12}{'hours':>10}{'runs':>6}",
    ]
    for contestant, contest in found.contests.items():
        run, logits = contest.run, contest.run.distill_work.parts(device, contest.run.distill_halves)["logits"]
        rollout, distill = run.rollout_seconds(device), run.distill_seconds(device)
        lines.append(
            f"{contestant:28}{contest.peak / 2**30:8.2f}{rollout:10.3g}{distill:10.3g}{logits / distill:12.1%}"
            f"{run.hours(device):10.3g}{contest.tries + contest.runs:6}"
        )
    lines += [
        "rollout and distill are seconds of a round, if every group carries a signal; in logits is the share of "
        "distill; hours are of a run",
        *(f"in the {kind} at {speed}" for kind, speed in speeds(base, device).items() if kind != "adapter"),
        fits(found.peak, device),
        "",
        f"{'hours of one device':28}{found.hours(device):8.3g}   the comparison, with those runs that choose learning "
        "rates, and an evaluation of the base",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Prints the plan of a configuration; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.describe", description="What an experiment needs: memory per device, time and hours."
    )
    parser.add_argument("config", help="the experiment, as a YAML or JSON file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change one field of it, as `pyflyte run` does",
    )
    parser.add_argument(
        "--device", choices=[*DEVICES, "cpu"], help="default: hardware.distill.kind; h100 where that says just gpu"
    )
    parser.add_argument("--prompt-tokens", type=int, help="tokens of a prompt; default: estimated from the domain")
    parser.add_argument(
        "--verdicts", type=float, default=Assumptions.verdicts, help="answers judged in a second; default: %(default)g"
    )
    given = parser.parse_args(arguments)
    if given.verdicts <= 0:
        parser.error("answers judged in a second are more than 0")
    try:
        config, family, shape = read(given.config, given.set)
    except (OSError, GdsdError) as error:
        print(error, file=sys.stderr)
        return 1
    device = device_of(config, shape, given.device)
    estimated = given.prompt_tokens is None
    assumed = "estimated from the domain's example; --prompt-tokens sets it" if estimated else "as given"
    if isinstance(config, CompareConfig):
        compared = of_comparison(config, shape, family, device.is_gpu, given.prompt_tokens)
        print(describe_comparison(compared, device, config.name, assumed))
    else:
        found = plan(config, shape, family, device.is_gpu, given.prompt_tokens)
        both = both_ways(config, found, device, Assumptions(verdicts=given.verdicts))
        print(describe(found, device, config.name, assumed), "", *both, sep="\n")
    if isinstance(config.policy.model, ModelFolder):
        print(f"model in {config.policy.model.path}, sha256: {config.policy.model.sha256}")
    if config.policy.tiny is not None and config.policy.tiny.alphabet == "from_data":
        print("parameters are those with the plain alphabet: that of the data is known when problems are made")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
