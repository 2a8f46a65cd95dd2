"""The policies that minimise the GDSD loss, on a problem small enough to take its expectations exactly."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import GdsdConfig, Readout
from tasks.gdsd.distill.masking import mask_views
from tasks.gdsd.objectives import Scores
from tasks.gdsd.objectives.gdsd import gdsd_loss

# One position, five tokens, pi_old = COUNTS / 16. A group with each token as often as COUNTS says makes the sum over
# sequences 16 times the expectation over pi_old, exactly.
COUNTS = torch.tensor([1, 2, 3, 4, 6])
OLD = (COUNTS / 16).double().log()
REF = torch.tensor([0.3, -0.2, 0.9, -1.1, 0.1], dtype=torch.float64)
TOKENS = torch.arange(5).repeat_interleave(COUNTS)
RAW = torch.tensor([1.0, -0.5, 0.25, 0.8, -1.0], dtype=torch.float64)
ADVANTAGE = RAW - (OLD.exp() * RAW).sum()  # centred, as group baselines make it
VIEWS = mask_views(torch.ones(1, 16, 1, dtype=torch.bool), torch.ones(16, 1, dtype=torch.bool))

READOUTS: list[tuple[Readout, int | None]] = [
    ("log_prob", None),
    ("centred", None),
    ("centred_topk", 1),
    ("centred_topk", 3),
]


def settings(
    readout: tuple[Readout, int | None], baseline: Literal["zero", "group"], guidance: float, reference_weight: float
) -> GdsdConfig:
    return GdsdConfig(
        trust_region=None,
        readout=readout[0],
        top_k=readout[1],
        baseline=baseline,
        guidance=guidance,
        reference_weight=reference_weight,
        mask_source="random",
        form="optimum",
    )


def candidates(readout: tuple[Readout, int | None]) -> Tensor:  # (k,): what a centred readout is centred on
    return OLD.topk(readout[1] or len(OLD)).indices


def read(readout: tuple[Readout, int | None], logits: Tensor) -> Tensor:  # (V,) -> (2, 16, 1)
    normaliser = logits.logsumexp(0) if readout[0] == "log_prob" else logits[candidates(readout)].mean()
    return (logits - normaliser)[TOKENS][:, None] * VIEWS.hidden


def minimise(config: GdsdConfig) -> Tensor:
    """Returns the probabilities (5,) that minimise the loss, by L-BFGS in float64 from pi_old."""
    logits = OLD.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )
    readout = config.readout, config.top_k

    def closure() -> float:
        optimizer.zero_grad()
        scores = Scores(
            theta=read(readout, logits),
            old=read(readout, OLD),
            ref=read(readout, REF),
            theta_log_prob=None,
            ref_log_prob=None,
            read=VIEWS.hidden,
            lengths=torch.ones(16, dtype=torch.int64),
            judged=torch.ones(16, dtype=torch.bool),
            group_size=16,
        )
        loss, _ = gdsd_loss(scores, ADVANTAGE[TOKENS], config)
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    return logits.detach().softmax(0)


def distance(first: Tensor, second: Tensor) -> float:
    return (first - second).abs().sum().item()


def teacher(guidance: float, reference_weight: float = 0.0) -> Tensor:
    return ((1 - reference_weight) * OLD + reference_weight * REF + guidance * ADVANTAGE).softmax(0)


@pytest.mark.parametrize("reference_weight", [0.0, 0.3])
@pytest.mark.parametrize("guidance", [0.1, 0.4, 2.0])
@pytest.mark.parametrize("readout", READOUTS, ids=str)
def test_closed_form_of_the_group_baseline(
    readout: tuple[Readout, int | None], guidance: float, reference_weight: float
) -> None:
    """If it fails, the loss does not solve the problem that it was derived from.

    max E_pi[psi A] - KL(pi || pi_old) has the optimum pi* = softmax(log pi_old + psi A), and the form `optimum` mixes
    the base policy into it: pi* ~ pi_old^(1 - beta) pi_ref^beta exp(psi A). There log pi* - (1 - beta) log pi_old
    - beta log pi_ref - psi A is the same for all tokens, so its variance under pi_old, the loss, is 0; and it is 0 only
    there, because pi_old is positive on all tokens. What a readout subtracts is the same for all tokens, too.
    """
    found = minimise(settings(readout, "group", guidance, reference_weight))
    assert distance(found, teacher(guidance, reference_weight)) < 1e-6


def test_distance_of_the_zero_baseline_from_the_closed_form() -> None:
    """If it fails, the documented error of the baseline `zero` with `log_prob` is wrong: it falls as psi^3.

    The minimiser weights residuals by pi_old. With `log_prob` the missing normaliser is log E[exp(psi A)], which is
    psi^2 Var(A) / 2 and more for centred A. To first order in the logits' change, a constant residual is orthogonal to
    every change under pi_old, since a change of log pi has mean 0 there; what remains is of third order.
    """
    assert slopes(("log_prob", None)) == pytest.approx([3, 3], abs=0.25)


@pytest.mark.parametrize("readout", READOUTS[1:], ids=str)
def test_closed_form_of_the_zero_baseline_with_centred_readouts(readout: tuple[Readout, int | None]) -> None:
    """If it fails, the documented error of the baseline `zero` with centred readouts is wrong: it falls as psi.

    Centred scores must have mean 0 over the tokens C that they are centred on, but psi A has mean 0 under pi_old. The
    change u of the scores minimises sum_y pi_old(y) (u(y) - psi A(y))^2 subject to sum_C u = 0. So u = psi A outside C,
    and by Lagrange u(y) = psi (A(y) - m / pi_old(y)) in C, with m = sum_C A / sum_C 1 / pi_old. The policy is then
    softmax(log pi_old + u), off by psi m / pi_old in the logits. With a single candidate its own advantage has no say.
    """
    inside = torch.zeros(5, dtype=torch.bool).index_fill(0, candidates(readout), True)
    m = ADVANTAGE[inside].sum() / OLD.exp()[inside].reciprocal().sum()
    change = ADVANTAGE - inside * m / OLD.exp()
    for guidance in (0.1, 0.4, 2.0):
        found = minimise(settings(readout, "zero", guidance, 0.0))
        assert distance(found, (OLD + guidance * change).softmax(0)) < 1e-6
    assert slopes(readout) == pytest.approx([1, 1], abs=0.25)


def slopes(readout: tuple[Readout, int | None]) -> list[float]:
    """The orders in psi by which the minimiser with the baseline `zero` misses the teacher, at two sizes of psi."""
    guidances = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    misses = torch.tensor(
        [distance(minimise(settings(readout, "zero", psi, 0.0)), teacher(psi)) for psi in guidances.tolist()]
    )
    return (misses.log().diff() / guidances.log().diff()).tolist()
