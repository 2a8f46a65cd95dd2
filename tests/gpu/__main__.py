"""Asks a GPU everything that only a GPU can answer, in at most eight minutes.

python -m tests.gpu OUT
python -m tests.gpu OUT --parts rollouts updates
python -m tests.gpu OUT --small

It needs torch 2.11, transformers 5.17, peft, accelerate, pyarrow, pydantic and pytest, or newer, and no network. Each
part is a process of its own, so that one that fails, hangs or breaks the GPU's context ends no other. OUT then has
results.jsonl, to which each row is added as it is measured; gpu.md, which is committed as docs/gpu.md; and log.txt,
what the parts have printed. Parts that are asked again replace what they had found.
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.gpu import results
from tests.gpu.parts import LIMIT, PARTS

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[[str], Sequence[str]]


def ask(part: str, seconds: float, out: Path, command: Command) -> None:
    """Has a process measure a part, and ends it with all that it has started when its time is over."""
    results.forget(out, part)
    if seconds <= 0:
        results.write(out, part, ended="was not begun", said=f"the {LIMIT} s of all parts were over")
        return
    began = time.monotonic()
    with (out / results.LOG).open("ab") as log:
        process = subprocess.Popen(command(part), cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    taken = time.monotonic() - began
    part_found = results.read(out).get(part, results.Found())
    ended, said = part_found.ended, part_found.said
    if code is None:
        ended, said = "was ended", f"its {seconds:.0f} s were over"
    elif not ended:
        ended, said = "failed", f"its process ended with {code}; see {results.LOG}"
    results.write(out, part, ended=ended, said=said, seconds=taken)


def publish(out: Path) -> None:
    """Writes the page of what is known by now."""
    from tasks.gdsd.planning.work import REACHED

    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # a copy without its history
        commit = "unknown"
    text = results.page(results.read(out), time.strftime("%Y-%m-%d", time.gmtime()), commit, REACHED)
    (out / results.PAGE).write_text(text)


def main(given: Sequence[str] | None = None) -> int:
    """Returns 0 where every part that could be measured was, and has found what it should."""
    end = time.monotonic() + LIMIT
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder for results.jsonl, gpu.md and log.txt")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="by default all")
    parser.add_argument("--small", action="store_true", help="small shapes on the CPU: a rehearsal without a GPU")
    options = parser.parse_args(given)
    if not options.small:
        import torch

        if not torch.cuda.is_available():
            sys.exit("there is no GPU here; --small rehearses on the CPU")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)

    def command(part: str) -> list[str]:
        return [sys.executable, "-m", "tests.gpu.part", part, str(out), *(["--small"] if options.small else [])]

    for part in options.parts:
        limit = math.inf if options.small else min(PARTS[part].seconds, end - time.monotonic())
        ask(part, limit, out, command)
        publish(out)
        found = results.read(out)[part]
        print(f"{part}: {found.ended} after {found.seconds:.0f} s {found.said}".rstrip(), flush=True)
    print((out / results.PAGE).read_text())
    return 0 if all(part.is_good for part in results.read(out).values()) else 1


if __name__ == "__main__":
    sys.exit(main())
