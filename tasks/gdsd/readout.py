"""Token scores from hidden states: what the denoiser says of one token, without the (B, L, V) logits.

With logits z = W h + b for a head (W, b), `log_prob` is z[y] - logsumexp(z); `centred` is z[y] - mean(z), token logit
centralisation (TLC) of arXiv 2605.29398. The centred score needs one head row and the mean row, O(D) per token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """The linear map from hidden states to logits, in float32."""

    weight: Tensor  # (V, D)
    bias: Tensor | None = None  # (V,)

    def logits(
        self,
        hidden: Tensor,  # (..., D)
    ) -> Tensor:  # (..., V)
        return torch.nn.functional.linear(hidden.float(), self.weight, self.bias)


def log_prob(
    hidden: Tensor,  # (R, D): rows that predict a hidden token
    head: Head,
    tokens: Tensor,  # (R,) int64
) -> Tensor:  # (R,) float32
    """Scores each token by its log-probability, the logits less their log-normaliser."""
    return head.logits(hidden).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


def centred(
    hidden: Tensor,  # (R, D)
    head: Head,
    tokens: Tensor,  # (R,) int64
) -> Tensor:  # (R,) float32
    """Scores each token by its logit less the mean logit over the vocabulary, in O(D) per token.

    z[y] - mean(z) = h . (W[y] - mean(W)) + b[y] - mean(b): the softmax normaliser cancels and the logits never exist.
    """
    rows = head.weight[tokens] - head.weight.mean(0)  # (R, D)
    score = (hidden.float() * rows).sum(-1)
    if head.bias is not None:
        score = score + head.bias[tokens] - head.bias.mean()
    return score


READOUTS = {"log_prob": log_prob, "centred": centred}
