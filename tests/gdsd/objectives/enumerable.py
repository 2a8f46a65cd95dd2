"""A denoiser so small that everything about it is known exactly: 3 positions, 3 tokens, no prompt.

It is a table of logits, one row for each partly hidden completion and position, in float64. The distribution of its
sampler and its ELBO are sums over all completions, orders and masks. What objectives are given is read by the product's
own functions.
"""

import math
from itertools import permutations, product

import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.objective import ObjectiveConfig
from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.distill import masking
from tasks.gdsd.distill.forward import hidden_states, spread
from tasks.gdsd.distill.masking import Views
from tasks.gdsd.distill.token_scores import read, top_tokens
from tasks.gdsd.objectives.base import pair_scores

LENGTH = VOCABULARY = MASK = 3  # the mask is the token after the last
COMPLETIONS = torch.tensor(list(product(range(VOCABULARY), repeat=LENGTH)))  # (27, L)
ORDERS = torch.tensor(list(permutations(range(LENGTH))))  # (6, L): the position that each step unmasks
UNMASKED_AT = ORDERS.argsort(1)  # (6, L): the step that unmasks each position
MASKS = torch.tensor(list(product((False, True), repeat=LENGTH)))  # (8, L)
MASK_PROBABILITY = torch.tensor(
    [1 / (LENGTH + 1) / math.comb(LENGTH, sum(mask)) for mask in MASKS.tolist()], dtype=torch.float64
)
STATES = torch.tensor(list(product(range(VOCABULARY + 1), repeat=LENGTH)))  # (64, L)


def state_index(tokens: Tensor) -> Tensor:  # (..., L) -> (...)
    return tokens @ torch.tensor([(VOCABULARY + 1) ** place for place in reversed(range(LENGTH))])


class Tabular:
    """Stands in for a denoiser: its hidden states are the logits of the table."""

    mask_id, pad_id, never_sampled = MASK, MASK, (MASK,)
    device = torch.device("cpu")

    def __init__(self, table: Tensor, outputs: int = VOCABULARY):
        self.table = table  # (64, L, V)
        self.outputs = outputs  # V, or V + 1 with a logit of the mask, which the sampler forbids

    def __call__(self, ids: Tensor, attention: Tensor | None, read: Tensor | None = None) -> Tensor:
        states = self.table[state_index(ids)]  # (B, L, V)
        return states if read is None else states[read]  # (R, V)

    def head(self) -> Head:
        return Head(torch.eye(self.outputs, VOCABULARY, dtype=torch.float64))


def steps() -> tuple[Tensor, Tensor, Tensor]:  # (27, 6, L) each
    """The state before each step of making each completion in each order, the position, and its token."""
    position = ORDERS.expand(len(COMPLETIONS), -1, -1)
    step = torch.arange(LENGTH)[:, None]
    still_hidden = UNMASKED_AT[:, None] >= step  # (6, step, L)
    states = state_index(COMPLETIONS[:, None, None].masked_fill(still_hidden, MASK))
    return states, position, COMPLETIONS[:, None].expand(-1, len(ORDERS), -1).gather(2, position)


def sampler(table: Tensor) -> Tensor:  # (27, 6)
    """The probability that low-confidence remasking, one token per step, makes each completion in each order.

    A step draws a token at every hidden position and keeps the one of highest probability, at the first position of
    those that tie. So (i, v) is kept with probability p_i(v) prod_j P(the draw at j is less confident), over the other
    hidden positions j. Which draws are less confident jumps where two probabilities cross; elsewhere this is smooth.
    """
    p = table.softmax(-1)  # (64, L, V)
    here, there = p[:, :, :, None, None], p[:, None, None]  # (64, i, v, 1, 1), (64, 1, 1, j, u)
    i, j = torch.arange(LENGTH)[:, None, None, None], torch.arange(LENGTH)[:, None]
    wins = (here > there) | ((here == there) & (i < j))  # (64, i, v, j, u)
    less_confident = (wins * there).sum(-1)  # (64, i, v, j)
    rival = (STATES == MASK)[:, None, None] & (i != j)[..., 0]  # (64, i, 1, j)
    kept = p * less_confident.where(rival, 1.0).prod(-1)  # (64, i, v)
    return kept[steps()].prod(-1)


def any_order(table: Tensor) -> Tensor:  # (27, 6)
    """The probability of each completion when it is written in each order."""
    return table.softmax(-1)[steps()].prod(-1)


def read_views(table: Tensor, old: Tensor, completions: Tensor, views: Views, config: ObjectiveConfig) -> Tensor:
    """What the update loop reads: with `centred_topk`, centred on the candidates of the table `old`."""
    nothing = completions[:, :0]

    def states(values: Tensor) -> tuple[Tensor, Tensor]:
        return hidden_states(Tabular(values), nothing, nothing.bool(), completions, views)

    candidates = (
        None if config.candidates is None else top_tokens(states(old)[0], Tabular(old).head(), config.candidates)
    )
    hidden, tokens = states(table)
    return spread(read(config.reads, hidden, Tabular(table).head(), tokens, candidates), views.read)


def elbo(table: Tensor) -> Tensor:  # (27,)
    """The mean over all masks of the score with the weights `elbo`, as a sum over tokens."""
    completions = COMPLETIONS.repeat_interleave(len(MASKS), 0)  # (27 * 8, L)
    views = masking.mask_views(MASKS.repeat(len(COMPLETIONS), 1)[None], torch.ones_like(completions, dtype=torch.bool))
    readouts = read_views(table, table, completions, views, ObjectiveConfig())
    scores = pair_scores(readouts, views.read, views.counted.sum(1), "elbo")[0]
    return scores.view(len(COMPLETIONS), len(MASKS)) @ MASK_PROBABILITY * LENGTH


# Problems


def random_table(seed: int) -> Tensor:  # (64, L, V)
    """A denoiser whose predictions in different states have nothing to do with each other, as before training."""
    return torch.randn(len(STATES), LENGTH, VOCABULARY, generator=seeds.generator("table", seed), dtype=torch.float64)


def consistent_table(seed: int) -> tuple[Tensor, Tensor]:  # (64, L, V), (27,)
    """A perfect denoiser of a random distribution: its predictions are the exact conditionals, in every order."""
    log_p = torch.randn(len(COMPLETIONS), generator=seeds.generator("joint", seed), dtype=torch.float64).log_softmax(0)
    table = torch.empty(len(STATES), LENGTH, VOCABULARY, dtype=torch.float64)
    for place in range(LENGTH):
        context = STATES.clone()
        context[:, place] = MASK
        for token in range(VOCABULARY):
            fits = ((context[:, None] == MASK) | (context[:, None] == COMPLETIONS)).all(2)  # (64, 27)
            fits &= COMPLETIONS[:, place] == token
            table[:, place, token] = log_p.where(fits, -math.inf).logsumexp(1)
    return table, log_p.exp()


def solutions(seed: int) -> Tensor:  # (27,) bool
    """A third of the completions."""
    order = torch.randperm(len(COMPLETIONS), generator=seeds.generator("solved", seed))
    return order < len(COMPLETIONS) // 3


def solved_share(table: Tensor, solved: Tensor) -> Tensor:  # ()
    """The expected reward: the probability that the sampler makes a solved completion."""
    return sampler(table).sum(1)[solved].sum()


def ascent(table: Tensor, solved: Tensor) -> Tensor:  # (64, L, V)
    """The gradient of the expected reward."""
    table = table.detach().requires_grad_()
    return torch.autograd.grad(solved_share(table, solved), table)[0]
