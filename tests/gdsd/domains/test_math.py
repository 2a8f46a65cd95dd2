"""MATH: rows, the prompt, and a comparison in worker processes whose limits hold."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.gdsd.domains import math as math_domain
from tasks.gdsd.domains.base import Answer, Problem
from tasks.gdsd.domains.math import WORKER, Math, MathConfig, Worker
from tasks.gdsd.errors import DataError

ROOT = Path(__file__).parents[3]
BOMB = "9^{9^{9^9}}"


@pytest.fixture(scope="module")
def domain() -> Iterator[Math]:
    yield Math()


def tagged(expression: str) -> str:
    return f"<reasoning>r</reasoning>\n<answer>\\boxed{{{expression}}}</answer>"


def solved(domain: Math, reference: str, expression: str) -> bool | None:
    return domain.verify("p", reference, tagged(expression)).solved


def gone(process: int) -> bool:
    """Whether a worker ends within half a minute; of one that nobody has reaped yet there is no command line."""
    command = Path(f"/proc/{process}/cmdline")
    for _ in range(300):
        try:
            if not command.read_bytes():
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_both_texts_are_normalised_before_they_are_compared(domain: Math) -> None:
    """If it fails, a reference as it stands in a table, with its full stop, refuses every answer.

    What is equal is in tests/gdsd/sandbox/test_mathematics.py.
    """
    for reference, expression, right in [
        (r"\frac{1}{2}.", "0.5", True),
        ("0.5", r"\frac{1}{2}.", True),
        ("$x = 5$", "5", True),
        (r"\boxed{5}", r"\boxed{5}", True),
        ("(2,\N{INFINITY})", r"\left(2, \infty\right)", True),
        (r"12.5\%", "12.5", True),
        ("1e-07", "10^{-7}", True),
        ("1e-07", "e-7", False),
        ("5", "", False),
        ("5", "$$", False),
        ("5", r"5 \text{ or } 6", False),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", False),
    ]:
        assert solved(domain, reference, expression) is right, (reference, expression)
        assert domain.fault("p", reference) is None


def test_verdicts(domain: Math) -> None:
    """If it fails, the reward is not what the document says: the last box inside the last tags counts, in its form."""
    for answer, correctness, form in [
        (tagged("5"), 1.0, 1.0),
        (tagged("6"), 0.0, 1.0),
        ("<answer>\\boxed{5}</answer>", 1.0, 0.0),
        ("<answer>\\boxed{6} \\boxed{5}</answer>", 1.0, 0.0),
        ("<answer>\\boxed{5} \\boxed{6}</answer>", 0.0, 0.0),
        ("<answer>It is $\\boxed{5}$.</answer>", 1.0, 0.0),
        ("<reasoning>\\boxed{5}</reasoning><answer>5</answer>", 0.0, 0.0),
        ("\\boxed{5}", 0.0, 0.0),
        ("", 0.0, 0.0),
    ]:
        verdict = domain.verify("p", "5", answer)
        assert verdict.parts == {"correctness": correctness, "format": form}, answer
        assert verdict.solved is (correctness == 1.0)
    unknown = domain.verify(
        "p", " ", tagged("5")
    )  # a broken reference must not pull the policy away from right answers
    assert unknown.solved is None and unknown.parts == {"correctness": None, "format": 1.0}


def test_verdicts_of_many_answers_are_in_order(domain: Math) -> None:
    """If it fails, several workers mix up whose answer is right, or one answer holds up a round for hours.

    Two of the answers use up their time, and end their workers on the way.
    """
    quick = Math(MathConfig(seconds=0.5, workers=3))
    items = [Answer("p", str(index % 5), tagged(BOMB if index % 20 == 7 else str(index % 3))) for index in range(40)]
    wanted = [index % 20 != 7 and index % 5 == index % 3 for index in range(40)]
    assert [verdict.solved for verdict in quick.verify_all(items)] == wanted
    assert domain.verify_all([]) == []


def test_a_worker_without_a_processor_makes_no_answer_wrong() -> None:
    """If it fails, a worker that hangs holds up a round for ever, or a busy machine makes right answers wrong."""
    domain = Math(MathConfig(seconds=0.2))
    assert solved(domain, "5", "5") is True
    (worker,) = domain._idle
    os.kill(worker.process.pid, signal.SIGSTOP)
    assert solved(domain, "5", "2+3") is True, "tried again by another worker"
    assert worker.process.poll() is not None
    (worker,) = domain._idle
    worker.process.kill()
    worker.process.wait()
    assert solved(domain, "5", "2+3") is True, "the system killed it, and it was replaced"


def test_an_answer_that_is_late_twice_is_left_out(
    domain: Math, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a crowd of answers or a busy machine makes one of them wrong, or nobody learns of it."""
    asked: list[str] = []
    ask = Worker.ask

    def late(self: Worker, request: dict[str, str], seconds: float) -> dict[str, bool | None]:
        asked.append(request["answer"])
        if request["answer"] == "6" or (asked.count(request["answer"]) < 2 and request["answer"] == "7"):
            raise TimeoutError
        return ask(self, request, seconds)

    monkeypatch.setattr(Worker, "ask", late)
    verdicts = domain.verify_all([Answer("p", "7", tagged(text)) for text in ("6", "7", "8", "7")])
    assert [verdict.solved for verdict in verdicts] == [None, True, False, True]
    assert verdicts[0].parts["correctness"] is None
    assert asked[3:] == ["6", "7"], "after all others"
    assert "1 of 3 different answers" in caplog.text and "90 s" in caplog.text
    assert "could not be run" in str(domain.fault("p", "6"))


def test_the_limit_of_memory_bites(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If it fails, an answer eats the machine. A stand-in asks for 1 GiB at once; multiplying takes minutes."""
    script = tmp_path / "worker.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(WORKER.parent)!r}, {str(ROOT)!r}]\n"
        "import math_worker\n"
        "math_worker.load = lambda: lambda reference, answer: len(bytearray(int(answer))) > 0\n"
        "math_worker.main()\n"
    )
    monkeypatch.setattr(math_domain, "WORKER", script)
    tight = Math(MathConfig(memory_mib=256))
    assert [solved(tight, "", size) for size in ("1000", str(2**30), "1000")] == [True, False, True]


def test_a_worker_has_its_limits_and_ends_when_half_its_memory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, what earlier answers left in caches makes a later right answer wrong, or a worker has secrets."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    worker = Worker(1.0, 512)
    assert b"HF_TOKEN" not in Path(f"/proc/{worker.process.pid}/environ").read_bytes()
    limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
    assert f"{512 * 2**20}" in next(line for line in limits.splitlines() if "address space" in line)
    assert worker.ask({"reference": "5", "answer": "5"}, 120.0) == {"solved": True, "last": False}
    worker.close()
    worker = Worker(1.0, 110)  # it starts in about 65 MiB
    assert worker.ask({"reference": "5", "answer": "5"}, 120.0) == {"solved": True, "last": True}
    assert worker.process.wait(120) == 0
    worker.close()
    with pytest.raises(OSError, match=r"MemoryError|ImportError|has ended"):
        Worker(1.0, 40)


def test_a_long_expression_is_wrong_without_being_read(domain: Math, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the grammar's time on a long text is paid for each hostile answer."""
    monkeypatch.setattr(Math, "_compare", lambda *arguments: pytest.fail("it was sent to a worker"))
    assert solved(domain, "1", "0" * 500 + "1") is False


def test_without_workers_nothing_is_judged_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a missing library looks like wrong answers, or nobody learns what to install."""
    (tmp_path / "sympy").mkdir()
    (tmp_path / "sympy" / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert solved(Math(), "5", "5") is None
    assert "ImportError: not here" in caplog.text


def test_workers_end_with_their_domain_and_with_a_killed_pipeline() -> None:
    """If it fails, each run leaves processes behind."""
    domain = Math()
    solved(domain, "5", "5")
    (worker,) = domain._idle
    assert worker.process.poll() is None
    del domain
    assert worker.process.returncode is not None and gone(worker.process.pid)
    program = (
        "import os, signal, sys, threading, time\n"
        "from tasks.gdsd.domains.math import Math, MathConfig\n"
        "domain = Math(MathConfig(seconds=60))\n"
        "assert domain.verify('p', '5', '<answer>\\\\boxed{5}</answer>').solved\n"
        "worker = domain._idle[0]\n"
        "print(worker.process.pid, flush=True)\n"
        "if sys.argv[1:]:\n"
        "    request = {'reference': '5', 'answer': sys.argv[1]}\n"
        "    threading.Thread(target=worker.ask, args=(request, 60), daemon=True).start()\n"
        "    time.sleep(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for busy in ([], [BOMB]):
        command = [sys.executable, "-c", program, *busy]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert done.returncode == -signal.SIGKILL
        assert gone(int(done.stdout))


def test_nothing_of_an_answer_is_evaluated(tmp_path: Path) -> None:
    """If it fails, an answer runs as Python: sympify of a text does that.

    The guard must refuse calls and attributes, and still make numbers, and names for sympy's own modules.
    """
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import math_worker; judge = math_worker.load()\n"
        "import sympy, json\n"
        "def tried(text):\n"
        "    try: return str(sympy.sympify(text))\n"
        "    except Exception as error: return type(error).__name__\n"
        "print(json.dumps([tried(text) for text in json.loads(sys.argv[2])]))\n"
    )
    mark = tmp_path / "mark"
    texts = [f"open({str(mark)!r}, 'w')", "__import__('os').getpid()", "x.free_symbols", "9**9", "12", "1.5", "yotta"]
    done = subprocess.run(
        [sys.executable, "-c", program, str(WORKER.parent), json.dumps(texts)], stdout=subprocess.PIPE, text=True
    )
    results = json.loads(done.stdout)
    assert not mark.exists() and results[4:] == ["12", "1.50000000000000", "yotta"]
    assert set(results[:4]) <= {"SympifyError", "ValueError"}


def test_rows_of_the_data_set(domain: Math) -> None:
    """If it fails, MATH or MATH-500 cannot be read."""
    solution = r"We add. So it is $\boxed{4}$, no, $\boxed{\frac{5}{6}}$."
    wanted = Problem("How much?", r"\frac{5}{6}")
    assert domain.read({"problem": " How much?\n", "answer": r"\frac{5}{6}", "solution": "unused"}) == wanted
    assert domain.read({"problem": "How much?", "solution": solution}) == wanted
    assert domain.read({"problem": "How much?", "answer": solution}) == wanted
    for empty in (None, "", " "):
        assert domain.read({"problem": "How much?", "answer": empty, "solution": solution}) == wanted
    assert domain.read({"problem": "How much?", "answer": 0, "solution": solution}).reference == "0"
    assert domain.read({"problem": "How much?", "solution": r"$\fbox{7}$"}).reference == "7"
    assert domain.read({"problem": "How much?", "solution": r"$\boxed 7$."}).reference == "7"
    assert domain.read({"problem": "How much?", "answer": 1e-07}).reference == "0.0000001"
    for broken in (True, [5], float("nan")):
        with pytest.raises(DataError, match="answer must be a text or a finite number"):
            domain.read({"problem": "How much?", "answer": broken})
    for row in ({"solution": "no box"}, {"answer": ""}, {"answer": None, "solution": None}, {}):
        with pytest.raises(DataError, match=r"there is no answer|there is neither an answer nor a solution"):
            domain.read({"problem": "How much?", **row})
    for problem in ("", 5, True, None, ["p"]):
        with pytest.raises(DataError, match="problem must be a text"):
            domain.read({"problem": problem, "answer": "5"})


def test_faults_are_named(domain: Math) -> None:
    """If it fails, references that no answer can meet train the policy on nothing."""
    assert domain.fault("How much?", r"\frac{5}{6}") is None
    assert "is empty" in str(domain.fault(" ", "5"))
    assert "501 characters, more than 500" in str(domain.fault("How much?", "5" * 501))
    assert "says nothing" in str(domain.fault("How much?", " . "))
    assert "is a solution; name its column" in str(domain.fault("How much?", r"It is \boxed{5}"))
    assert "behind ####" in str(domain.fault("How much?", "It is 2 + 3 = 5.\n#### 5"))
    for solution in ("We add: $2 + 3 = 5$.\nThe answer is: 5", "He has 5 of 9 apples. Therefore, there are 4 left."):
        assert "several sentences" in str(domain.fault("How much?", solution)), solution
    for words in ("C. Paris", r"4 \text{ p.m. Friday night}", "No. It is odd.", "Mr. Smith ran", "x = 5. "):
        assert domain.fault("How much?", words) is None, words
    missing = "N/A nan None <NA> NA NaT NULL (null) 1.#IND #REF! #NAME? #N/A #DIV/0! #### Err:502 proof notfound"
    lost = "02-Jan 2-Jan-24 Jan-02 1/2/2024 2024-01-02 2024-01-02T00:00:00 1.23E+11"
    for reference in [*missing.split(), *lost.split(), "2024-01-02 00:00:00", " None ", '="5"', "['5']"]:
        assert f"the reference {reference!r} is " in str(domain.fault("How much?", reference)), reference
    fine = r"$\boxed{5}$ \text{None} 1/2 2-1 1:30 1e-07 2e+3 \text{Jan} - n 2024-2023 5E+x"
    for reference in fine.split():
        assert domain.fault("How much?", reference) is None, reference
    assert "not found equal to itself" in str(Math(MathConfig(seconds=0.2)).fault("How much?", BOMB))
