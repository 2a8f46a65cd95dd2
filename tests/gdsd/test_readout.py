"""Readouts against their dense definitions, value and gradient."""

import pytest
import torch
from torch import Tensor

from tasks.gdsd.readout import READOUTS, Head, centred, log_prob

ROWS, VOCABULARY, WIDTH = 7, 11, 5


def example(bias: bool, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Head, Tensor]:
    source = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        # Drawn as float32, so that a cast to float32 inside a readout loses nothing.
        return torch.randn(shape, generator=source).to(dtype).requires_grad_()

    tokens = torch.randint(VOCABULARY, (ROWS,), generator=source)
    return draw(ROWS, WIDTH), Head(draw(VOCABULARY, WIDTH), draw(VOCABULARY) if bias else None), tokens


def leaves(hidden: Tensor, head: Head) -> list[Tensor]:
    return [hidden, head.weight] + ([] if head.bias is None else [head.bias])


def dense_logits(hidden: Tensor, head: Head) -> Tensor:
    logits = hidden.double() @ head.weight.double().T
    return logits if head.bias is None else logits + head.bias.double()


def dense(readout: str, hidden: Tensor, head: Head, tokens: Tensor) -> Tensor:
    """z[y] - logsumexp(z), or z[y] - mean(z), in float64."""
    logits = dense_logits(hidden, head)
    at_token = logits.gather(1, tokens[:, None]).squeeze(1)
    return at_token - (logits.logsumexp(1) if readout == "log_prob" else logits.mean(1))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("readout", ["log_prob", "centred"])
def test_value_and_gradient_equal_the_dense_readout(readout: str, bias: bool) -> None:
    """If it fails, training follows another gradient than the one documented.

    Any weighting of rows must agree, so a random one is used. Values are of order 1: 1e-5 is float32 rounding.
    """
    hidden, head, tokens = example(bias)
    weights = torch.linspace(-1, 1, ROWS)
    fast, plain = READOUTS[readout](hidden, head, tokens), dense(readout, hidden, head, tokens)
    assert fast.dtype == torch.float32 and fast.shape == (ROWS,)
    torch.testing.assert_close(fast.double(), plain, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((fast * weights).sum(), leaves(hidden, head))
    expected = torch.autograd.grad((plain * weights).sum(), leaves(hidden, head))
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_centred_is_exact_in_double_precision(bias: bool) -> None:
    """If it fails, the readout without logits is an approximation, not the identity that it claims to be.

    z[y] - mean(z) = h . (W[y] - mean(W)) + b[y] - mean(b); with a float64 head only float64 rounding may differ.
    """
    hidden, head, tokens = example(bias, torch.float64)
    fast, plain = centred(hidden, head, tokens), dense("centred", hidden, head, tokens)
    torch.testing.assert_close(fast, plain, atol=1e-12, rtol=0)
    found = torch.autograd.grad(fast.sum(), leaves(hidden, head))
    expected = torch.autograd.grad(plain.sum(), leaves(hidden, head))
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), wanted.double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("readout", ["log_prob", "centred"])
def test_a_shift_of_all_logits_of_a_row_changes_nothing(readout: str) -> None:
    """If it fails, the score depends on something that the policy's probabilities do not.

    Adding a vector c to every head row adds h . c to all logits of a row, and a constant to every bias adds that
    constant; a softmax does not see either, and both readouts subtract it again.
    """
    hidden, head, tokens = example(bias=True)
    assert head.bias is not None
    shifted = Head(head.weight + torch.tensor([0.5, -1.0, 2.0, 0.25, 1.5]), head.bias + 3.0)
    before, after = READOUTS[readout](hidden, head, tokens), READOUTS[readout](hidden, shifted, tokens)
    torch.testing.assert_close(after, before, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("readout", ["log_prob", "centred"])
def test_the_gradient_sums_to_zero_over_the_vocabulary(readout: str) -> None:
    """If it fails, training drifts along the direction that no probability depends on, until logits overflow.

    d score / d z[v] is 1[v = y] - softmax(z)[v], or 1[v = y] - 1/V; both sum to 0 over v. A head row's gradient is
    that times h and a bias's is that itself, so both sum to 0 over the vocabulary as well.
    """
    hidden, head, tokens = example(bias=True)
    _, weight, bias = torch.autograd.grad(READOUTS[readout](hidden, head, tokens).sum(), leaves(hidden, head))
    assert weight.abs().max() > 0.1
    torch.testing.assert_close(weight.sum(0), torch.zeros(WIDTH), atol=1e-5, rtol=0)
    assert bias.sum().item() == pytest.approx(0, abs=1e-5)


def test_log_prob_equals_log_softmax() -> None:
    """If it fails, the readout `log_prob` is not the log-probability that a sampler draws from."""
    hidden, head, tokens = example(bias=True)
    expected = torch.nn.functional.log_softmax(dense_logits(hidden, head), dim=-1)
    torch.testing.assert_close(
        log_prob(hidden, head, tokens), expected[torch.arange(ROWS), tokens].float(), atol=1e-5, rtol=1e-5
    )


def test_the_readouts_differ_by_the_mean_log_probability() -> None:
    """If it fails, one of the two is not what its name says: log p(y) - mean_v log p(v) = z[y] - mean(z)."""
    hidden, head, tokens = example(bias=False)
    every = torch.arange(VOCABULARY)
    for row, token in zip(hidden, tokens, strict=True):
        logs = log_prob(row.expand(VOCABULARY, -1), head, every)
        torch.testing.assert_close(
            centred(row[None], head, token[None])[0], logs[token] - logs.mean(), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("readout", ["log_prob", "centred"])
def test_half_precision_states_are_scored_in_float32(readout: str) -> None:
    """If it fails, scores on a GPU carry the rounding of bfloat16, which is larger than what training moves them by."""
    hidden, head, tokens = example(bias=False)
    half = hidden.detach().bfloat16()
    score = READOUTS[readout](half, head, tokens)
    assert score.dtype == torch.float32
    torch.testing.assert_close(score.double(), dense(readout, half, head, tokens), atol=1e-5, rtol=1e-5)
