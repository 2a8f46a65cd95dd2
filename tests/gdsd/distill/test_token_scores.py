"""Readouts against their dense definitions: value, gradient, and what is never computed or held."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tasks.gdsd.denoiser import head as head_module
from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.distill.token_scores import Readout, centred, log_prob, read, top_tokens

ROWS, VOCABULARY, WIDTH, CANDIDATES = 7, 11, 5, 4
EVERY: tuple[Readout, ...] = ("log_prob", "centred", "centred_topk")
# The greatest relative error: float32 and float64 rounding with room for sums of tens of terms.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Head, Tensor]:
    source = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        # Drawn as float32, so that a cast to float32 inside a readout loses nothing.
        return torch.randn(shape, generator=source).to(dtype).requires_grad_()

    tokens = torch.randint(VOCABULARY, (ROWS,), generator=source)
    return draw(ROWS, WIDTH), Head(draw(VOCABULARY, WIDTH)), tokens


def some_candidates() -> Tensor:  # (R, k)
    source = torch.Generator().manual_seed(1)
    return torch.stack([torch.randperm(VOCABULARY, generator=source)[:CANDIDATES] for _ in range(ROWS)])


def frozen(head: Head) -> Head:
    return Head(head.weight.detach())


def leaves(hidden: Tensor, head: Head) -> list[Tensor]:
    return [leaf for leaf in (hidden, head.weight) if leaf.requires_grad]


def dense_logits(hidden: Tensor, head: Head) -> Tensor:
    return hidden.double() @ head.weight.double().T


def dense(readout: str, hidden: Tensor, head: Head, tokens: Tensor, candidates: Tensor | None = None) -> Tensor:
    """z[y] less logsumexp(z), mean(z) or the mean of the candidates' z, in float64."""
    logits = dense_logits(hidden, head)
    at_token = logits.gather(1, tokens[:, None]).squeeze(1)
    if readout == "log_prob":
        return at_token - logits.logsumexp(1)
    return at_token - (logits if candidates is None else logits.gather(1, candidates.long())).mean(1)


def asked(readout: str) -> Tensor | None:
    """The candidates, for the readout that needs them."""
    return some_candidates() if readout == "centred_topk" else None


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def in_blocks_of(monkeypatch: pytest.MonkeyPatch, tokens: int, rows: int, dtype: torch.dtype) -> None:
    """Makes the readouts cut the vocabulary into blocks of so many tokens."""
    monkeypatch.setattr(head_module, "BLOCK_BYTES", tokens * dtype.itemsize * max(rows, WIDTH))


class Recorder(TorchDispatchMode):
    """Notes every operation below autograd, and the shape and dtype of what it made (views are not made)."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's own signature
        result = func(*args, **(kwargs or {}))
        self.operations.append(func.overloadpacket.__name__)
        if isinstance(result, Tensor) and not result._is_view():
            self.made.append(result)
        return result

    def largest(self, dtype: torch.dtype | None = None) -> int:
        return max(tensor.numel() for tensor in self.made if dtype in (None, tensor.dtype))


@contextmanager
def products_counted() -> Iterator[list[int]]:
    """Yields a list that gets the number of floating-point operations in matrix products."""
    result: list[int] = []

    def operations_in_place(total, left, right, **_) -> int:  # type: ignore[no-untyped-def]  # of shapes
        return 2 * left[0] * left[1] * right[1]

    # The counter knows `addmm` but not its in-place form.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: operations_in_place}) as counter:
        yield result
    result.append(counter.get_total_flops())


@pytest.mark.parametrize("trained", ["hidden", "head", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("readout", EVERY)
def test_only_rounding_separates_a_readout_from_the_dense_one(
    readout: Readout, dtype: torch.dtype, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, training follows another gradient than the documented one, or scores are an approximation.

    z[y] - mean(z[c]) = h . (W[y] - mean(W[c])) holds exactly, and a log-normaliser over blocks of
    the vocabulary (here 4 + 4 + 3 tokens) is the one over all of it: what is left is the rounding of the dtype.
    """
    in_blocks_of(monkeypatch, 4, ROWS, dtype)
    hidden, head, tokens = example(dtype)
    hidden = hidden if trained in ("hidden", "both") else hidden.detach()
    head = frozen(head) if trained == "hidden" else head
    weights = torch.linspace(-1, 1, ROWS, dtype=dtype)
    fast = read(readout, hidden, head, tokens, asked(readout))
    plain = dense(readout, hidden, head, tokens, asked(readout))
    assert fast.dtype == dtype
    assert relative_error(fast, plain) < ROUNDING[dtype]
    found = torch.autograd.grad((fast * weights).sum(), leaves(hidden, head))
    expected = torch.autograd.grad((plain * weights).sum(), leaves(hidden, head))
    assert found
    for gradient, wanted in zip(found, expected, strict=True):
        assert gradient.dtype == dtype
        assert relative_error(gradient, wanted) < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("readout", EVERY)
def test_tied_embeddings_get_the_gradient_of_both_uses(readout: Readout, dtype: torch.dtype) -> None:
    """If it fails, a model whose input embedding is its head trains on half of its gradient.

    With h = E[x] M and head E the chain rule gives dE = (through h) + (through the head), which the dense computation
    on the same Parameter adds up; dropping either part leaves an error of order 1.
    """
    source = torch.Generator().manual_seed(2)
    table = torch.nn.Parameter(torch.randn(VOCABULARY, WIDTH, generator=source).to(dtype))
    body = torch.randn(WIDTH, WIDTH, generator=source).to(dtype)
    inputs, tokens = torch.randint(VOCABULARY, (2, ROWS), generator=source)
    hidden = table[inputs] @ body
    fast = read(readout, hidden, Head(table), tokens, asked(readout))
    (found,) = torch.autograd.grad(fast.sum(), table, retain_graph=True)
    plain = dense(readout, hidden, Head(table), tokens, asked(readout))
    (expected,) = torch.autograd.grad(plain.sum(), table, retain_graph=True)
    assert relative_error(found, expected) < ROUNDING[dtype]
    one_use = read(readout, hidden, Head(table.detach()), tokens, asked(readout))
    (through_hidden,) = torch.autograd.grad(one_use.sum(), table)
    assert relative_error(through_hidden, expected) > 0.1


@pytest.mark.parametrize("readout", EVERY)
def test_double_precision_states_make_double_precision_scores(readout: Readout) -> None:
    """If it fails, an exact check of the method by float64 hidden states is silently one by a float32 head.

    A frozen float32 head has exact float64 values, its mean row included, so nothing but float64 rounding is left.
    """
    hidden, head, tokens = example()
    head = frozen(head)
    score = read(readout, hidden.double(), head, tokens, asked(readout))
    assert score.dtype == torch.float64
    assert relative_error(score, dense(readout, hidden, head, tokens, asked(readout))) < 1e-12


@pytest.mark.parametrize("tokens_per_block", [1, 5, 10, 11, 12])
@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_log_prob_does_not_depend_on_the_blocks(
    rows: int, tokens_per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a score depends on how much memory a block may take, or a batch that hides nothing crashes.

    Eleven tokens are cut into 11 blocks, 5 + 5 + 1, 10 + 1, and one block that is filled or not. Logits around +-100
    in different blocks overflow an exponential that is not taken relative to the greatest one so far.
    """
    in_blocks_of(monkeypatch, tokens_per_block, rows, torch.float32)
    hidden, head, tokens = example()
    hidden, tokens = (60 * hidden[:rows]).detach().requires_grad_(), tokens[:rows]
    fast, plain = log_prob(hidden, head, tokens), dense("log_prob", hidden, head, tokens)
    assert fast.shape == (rows,)
    torch.testing.assert_close(fast.double(), plain, atol=1e-4, rtol=1e-5)
    found = torch.autograd.grad(fast.sum(), leaves(hidden, head))
    expected = torch.autograd.grad(plain.sum(), leaves(hidden, head))
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("readout", EVERY)
def test_a_batch_without_rows_is_scored(readout: Readout) -> None:
    """If it fails, a mask that hides nothing stops training: no rows have no scores, and no gradient but zero."""
    hidden, head, tokens = example()
    score = read(readout, hidden[:0], head, tokens[:0], some_candidates()[:0])
    assert score.shape == (0,)
    for gradient in torch.autograd.grad(score.sum(), leaves(hidden, head)):
        assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("readout", EVERY)
def test_without_gradients_the_score_is_the_same(readout: Readout) -> None:
    """If it fails, the old policy's scores differ from the trained policy's at equal weights: no first loss is 0."""
    hidden, head, tokens = example()
    with torch.no_grad():
        alone = read(readout, hidden, head, tokens, asked(readout))
    assert not alone.requires_grad
    torch.testing.assert_close(alone, read(readout, hidden, head, tokens, asked(readout)), atol=0, rtol=0)


@pytest.mark.parametrize("tokens_per_block", [1, 5, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_top_tokens_are_those_of_the_dense_logits(
    dtype: torch.dtype, tokens_per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, `centred_topk` centres on other tokens than the k that the old policy ranks highest."""
    scores_dtype = torch.promote_types(dtype, torch.float32)
    in_blocks_of(monkeypatch, tokens_per_block, ROWS, scores_dtype)
    hidden, head, _ = example(dtype=dtype)
    found = top_tokens(hidden, head, CANDIDATES)
    expected = dense_logits(hidden, head).topk(CANDIDATES).indices.sort(1).values
    assert torch.equal(found, expected)
    assert torch.equal(top_tokens(hidden, head, VOCABULARY), torch.arange(VOCABULARY).expand(ROWS, -1))


@pytest.mark.parametrize("tokens_per_block", [1, 4, 11])
def test_tied_candidates_are_the_lower_tokens(tokens_per_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the same policy is centred on other tokens on another device, and a resumed run departs.

    Logits 1 0 2 1 0 2 1 0 2 1 0: the highest five are tokens 2, 5 and 8, then the lowest two of 0, 3, 6 and 9. Where
    all logits are NaN every token ties: the first five, so that the loss is what reports the NaN.
    """
    in_blocks_of(monkeypatch, tokens_per_block, 5, torch.float32)
    head = Head(torch.tensor([1.0, 0.0, 2.0] * 4)[:VOCABULARY, None].expand(-1, WIDTH).contiguous())
    hidden = torch.zeros(2, WIDTH)
    hidden[0, 0], hidden[1] = 1, torch.nan
    assert top_tokens(hidden, head, 5).tolist() == [[0, 2, 3, 5, 8], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("k", [0, VOCABULARY + 1])
def test_more_candidates_than_tokens_are_refused(k: int) -> None:
    """If it fails, a k that suits LLaDA ends in an index error of torch with a tiny vocabulary."""
    hidden, head, _ = example()
    with pytest.raises(ValueError, match=f"{k} candidates were asked for.* 1 to {VOCABULARY} tokens"):
        top_tokens(hidden, head, k)


def test_candidates_must_be_given() -> None:
    """If it fails, a caller that forgot the old policy's candidates gets another readout than it asked for."""
    hidden, head, tokens = example()
    with pytest.raises(ValueError, match="centred_topk got no candidates for its 7 tokens"):
        read("centred_topk", hidden, head, tokens, None)


@pytest.mark.parametrize("readout", EVERY)
def test_half_precision_states_are_scored_in_float32(readout: Readout) -> None:
    """If it fails, scores on a GPU carry the rounding of bfloat16, which is larger than what training moves them by."""
    hidden, head, tokens = example()
    half = hidden.detach().bfloat16().requires_grad_()
    score = read(readout, half, head, tokens, asked(readout))
    plain = dense(readout, half, head, tokens, asked(readout))
    assert score.dtype == torch.float32
    torch.testing.assert_close(score.double(), plain, atol=1e-5, rtol=1e-5)
    (found,), (expected,) = (torch.autograd.grad(scores.sum(), half) for scores in (score, plain))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0, rtol=2**-7)  # one unit in bfloat16's last place


@pytest.mark.parametrize("readout", EVERY)
def test_a_half_precision_head_is_scored_in_float32(readout: Readout, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a bfloat16 policy's scores, or the mean of its head rows, are rounded to three digits.

    Products and means of bfloat16 numbers are exact to 1e-5 in float32, so the dense float64 computation on the same
    weights is met to float32 rounding, with the candidates and the vocabulary cut in blocks.
    """
    in_blocks_of(monkeypatch, 8, ROWS, torch.float32)
    hidden, head, tokens = example(dtype=torch.bfloat16)
    head = frozen(head)
    plain = dense(readout, hidden, head, tokens, asked(readout))
    assert relative_error(read(readout, hidden, head, tokens, asked(readout)), plain) < 1e-5
    logits = head.logits(hidden)
    assert logits.dtype == torch.float32
    assert relative_error(logits, dense_logits(hidden, head)) < 1e-5


@pytest.mark.parametrize("readout", EVERY)
def test_a_half_precision_head_adds_up_gradients_in_float32(readout: Readout) -> None:
    """If it fails, a trained bfloat16 head loses the gradient of frequent tokens, such as the end token's padding.

    A bfloat16 sum of ones stalls at 256, where the spacing of its numbers is 2; here 1,000 rows with h = 1 score the
    same token. The true sum is rounded once, to 2^-8 of its size.
    """
    weight = torch.linspace(-1, 1, VOCABULARY).bfloat16()[:, None].requires_grad_()
    hidden, tokens = torch.ones(1000, 1, dtype=torch.bfloat16), torch.full((1000,), 3)
    candidates = torch.tensor([0, 1]).expand(1000, -1)
    score = read(readout, hidden, Head(weight), tokens, candidates)
    plain = dense(readout, hidden, Head(weight), tokens, candidates if readout == "centred_topk" else None)
    (found,) = torch.autograd.grad(score.sum(), weight)
    (expected,) = torch.autograd.grad(plain.sum(), weight)
    torch.testing.assert_close(found, expected, atol=0, rtol=2**-7)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("readout", EVERY)
def test_the_logits_never_exist(readout: Readout, trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the largest tensor of a training step is back: (R, V), 16 GiB at R = 32,768 and LLaDA's vocabulary.

    With R = 64 rows, V = 500, D = 8 and blocks of 20 tokens, nothing larger than a block, the hidden states, the
    gathered (R, k) candidates or a trained head's own gradient is made; (R, V) would be 32,000 numbers.
    """
    rows, vocabulary, width = 64, 500, 8
    monkeypatch.setattr(head_module, "BLOCK_BYTES", 20 * 4 * rows)
    hidden = torch.randn(rows, width, requires_grad=True)
    head = Head(torch.randn(vocabulary, width, requires_grad=trained))
    tokens, candidates = torch.randint(vocabulary, (rows,)), torch.randint(vocabulary, (rows, 16))
    with Recorder() as recorder:
        read(readout, hidden, head, tokens, candidates).sum().backward()
        top_tokens(hidden, head, 16)
    assert recorder.largest() <= max(rows * (20 + 16), vocabulary * width if trained else 0)


@pytest.mark.parametrize("readout", EVERY)
def test_a_frozen_half_precision_head_is_not_copied_to_float32(
    readout: Readout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, scoring with an 8-billion policy needs 2 GiB more: LLaDA's 126,464 x 4,096 head in float32.

    With V = 500, D = 8, three rows and blocks of 20 tokens, what is made holds at most a block of head rows, or the
    k = 16 candidates' rows of one token; the head has 4,000 numbers.
    """
    monkeypatch.setattr(head_module, "BLOCK_BYTES", 20 * 4 * 8)
    hidden = torch.randn(3, 8, dtype=torch.bfloat16, requires_grad=True)
    head = Head(torch.randn(500, 8, dtype=torch.bfloat16))
    tokens, candidates = torch.randint(500, (3,)), torch.randint(500, (3, 16))
    with Recorder() as recorder:
        read(readout, hidden, head, tokens, candidates).sum().backward()
        top_tokens(hidden, head, 16)
    assert recorder.largest() <= 20 * 8
    with Recorder() as recorder, torch.no_grad():
        head.logits(hidden)
    assert recorder.largest() <= 3 * 500


@pytest.mark.parametrize(("trained", "products"), [(False, 2), (True, 4)])
def test_log_prob_takes_no_more_products_than_it_must(trained: bool, products: int) -> None:
    """If it fails, a training step with `log_prob` takes 1.5 times as long as the dense one, or worse.

    A product of (R, D) with (D, V) is 2 R V D operations. Dense: logits forward, the hidden states' gradient backward;
    a trained head's gradient is a third. Without kept logits a trained head needs them twice, a frozen one does not.
    Scoring without gradients needs them once.
    """
    rows, vocabulary, width = 16, 1000, 8
    hidden = torch.randn(rows, width, requires_grad=True)
    head = Head(torch.randn(vocabulary, width, requires_grad=trained))
    tokens = torch.randint(vocabulary, (rows,))
    product = 2 * rows * vocabulary * width
    with products_counted() as operations:
        log_prob(hidden, head, tokens).sum().backward()
    assert operations == [products * product]
    with products_counted() as operations, torch.no_grad():
        log_prob(hidden, head, tokens)
    assert operations == [product]


def test_a_frozen_head_computes_its_mean_row_once() -> None:
    """If it fails, every call of the readout without logits reads the whole head, which takes longer than the rest."""
    hidden, head, tokens = example()
    head = frozen(head)
    with Recorder() as at_first:
        first = centred(hidden, head, tokens)
    with Recorder() as later:
        again = centred(hidden, head, tokens)
    assert torch.equal(again, first)
    assert "slice" in at_first.operations, "the blocks of head rows"
    assert "slice" not in later.operations


def test_a_trained_head_has_the_mean_row_of_its_present_weights() -> None:
    """If it fails, scores after an update are centred on the mean row from before it.

    Adding 1 to the first V/2 rounded up (6 of 11) head rows moves the mean row by 6/11, gradients wanted or not.
    """
    _, head, _ = example()
    before = head.mean_row(torch.float32).detach()
    with torch.no_grad():
        head.weight[:6] += 1
        torch.testing.assert_close(head.mean_row(torch.float32), before + 6 / 11, atol=1e-6, rtol=0)
