"""The training objectives' configurations: GDSD and its rivals, one model each, told apart by `name`."""

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from tasks.gdsd.strict import Config, by_name

Readout = Literal["log_prob", "centred", "centred_topk"]


class ObjectiveConfig(Config):
    """What every training objective states: what it reads of the denoiser, and how what follows an answer counts."""

    after_end: Literal["counted", "ignored"] = Field(
        "counted",
        description="the tokens after a completion's first end token count like others, or stay hidden and unread; the "
        "reward reads an answer up to its first end token either way",
    )

    @property
    def reads(self) -> Readout:
        """The readout of hidden tokens."""
        return "log_prob"

    @property
    def candidates(self) -> int | None:
        """How many of the old policy's likeliest tokens the readout `centred_topk` is centred on."""
        return None

    @property
    def needs_reference(self) -> bool:
        """Whether the base policy is read as well."""
        return False

    @property
    def needs_log_prob(self) -> bool:
        """Whether log-probabilities are read beside a centred readout."""
        return False


class CoupledMasks(ObjectiveConfig):
    """Completions are read under masks and their complements, so that a pair of views reads every token once."""

    mask_pairs: int = Field(1, ge=1, le=64, description="K: coupled mask pairs per completion")
    mask_source: Literal["path", "trajectory", "random"] = Field(
        "random", description="states that the sampler visited, or subsets of uniform size"
    )
    share_masks: bool = Field(
        True, description="the completions of a group are scored under the same masks, or at the same step"
    )

    @property
    def reads_complement(self) -> bool:
        """Whether a mask's complement is read as well."""
        return True


class RandomMasks(CoupledMasks):
    """The same under masks of uniform size, as the rivals' bounds of the likelihood are expectations over them."""

    mask_source: Literal["random"] = Field(
        "random", description="the bound is an expectation over masks of uniform size"
    )
    share_masks: bool = Field(
        False, description="the completions of a group are scored under the same masks; the authors draw for each"
    )


class PromptMasks(ObjectiveConfig):
    """Completions are read hidden as a whole, behind a prompt with some tokens hidden (d1, arXiv 2504.12216)."""

    mask_draws: int = Field(1, ge=1, le=64, description="draws of hidden prompt tokens per completion")
    prompt_mask_rate: float = Field(
        0.15, ge=0, lt=1, description="probability that a prompt token is hidden (d1; also wd1/train.yaml)"
    )
    share_masks: bool = Field(
        False, description="the completions of a group are scored behind the same prompt; d1 and wd1 draw for each"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.prompt_mask_rate == 0 and self.mask_draws > 1:
            raise ValueError(
                f"mask_draws {self.mask_draws} with prompt_mask_rate 0 scores the same view several times; "
                "use 1 draw, or a rate above 0"
            )
        return self


class GdsdConfig(CoupledMasks):
    """The regression target and how completions are scored (arXiv 2605.29398)."""

    name: Literal["gdsd"] = "gdsd"
    mask_source: Literal["path", "trajectory", "random"] = Field(
        "path",
        description="path: the states that the sampler visited, each token read where it was unmasked; trajectory: one "
        "of these states, all that it hides read; random: subsets of uniform size",
    )
    path_states: int | None = Field(
        default_factory=lambda data: 2 if data["mask_source"] == "path" else None,
        ge=1,
        le=4096,
        description="states of a path that are read, the likelier the less certain the policy was in them; null: all, "
        "which costs a view for each step; left out: 2",
    )
    mask_blocks: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="random masks hide the last blocks of so many tokens whole before any token of an earlier one; "
        "null: any tokens",
    )
    complement: bool = Field(
        True, description="a mask's complement is read as well; otherwise the tokens of the mask stand for all"
    )
    readout: Readout = Field(
        "log_prob", description="log-probability, or logit less the mean over the vocabulary or over the top tokens"
    )
    top_k: int | None = Field(
        None, ge=1, le=100_000, description="the old policy's likeliest tokens that `centred_topk` is centred on"
    )
    weights: Literal["uniform", "elbo"] = Field(
        "uniform", description="every token counts once, or a half counts (L + 1) / (hidden tokens) as in the ELBO"
    )
    guidance: float = Field(0.5, gt=0, le=1000, description="psi: logit shift per token and unit of advantage")
    reference_weight: float = Field(0.02, ge=0, lt=1, description="beta: pull towards the base policy; 0: none")
    form: Literal["optimum", "penalty", "token_penalty"] = Field(
        "token_penalty",
        description="the base policy is mixed into the target, or enters as a KL penalty beside it: of the completion, "
        "which at the same reference_weight pulls L / 2 times as hard, or of each token",
    )
    baseline: Literal["zero", "group"] = Field("zero", description="what is subtracted from a group's residuals")
    trust_region: float | None = Field(
        0.05,
        gt=0,
        le=1000,
        description="shift per token towards its target beyond which a completion pulls no further; null: none",
    )

    @property
    def reads_complement(self) -> bool:
        return self.complement and self.mask_source != "path"

    @property
    def reads(self) -> Readout:
        return self.readout

    @property
    def candidates(self) -> int | None:
        return self.top_k

    @property
    def needs_reference(self) -> bool:
        return self.reference_weight > 0

    @property
    def needs_log_prob(self) -> bool:
        return self.needs_reference and self.form != "optimum" and self.readout != "log_prob"

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_path()
        if (self.readout == "centred_topk") != (self.top_k is not None):
            raise ValueError(
                f"readout {self.readout!r} with top_k {self.top_k}: 'centred_topk' needs a top_k, such as 64, "
                "and the other readouts have none"
            )
        if self.weights == "elbo" and self.mask_source != "random":
            raise ValueError(
                "weights 'elbo' are those of masks of uniform size; set mask_source to 'random' or weights to 'uniform'"
            )
        if self.mask_blocks is not None and self.mask_source != "random":
            raise ValueError(
                f"mask_blocks {self.mask_blocks} is for random masks, and mask_source is {self.mask_source!r}; "
                "set it to 'random', or leave mask_blocks out"
            )
        if self.baseline == "group" and not (
            self.share_masks and self.mask_source == "random" and self.after_end == "counted"
        ):
            raise ValueError(
                "baseline 'group' cancels normalisers only between completions under the same masks; "
                "set share_masks to true, mask_source to 'random' and after_end to 'counted', or use baseline 'zero'"
            )
        return self

    def _check_path(self) -> None:
        """Refuses a number of states where there is no path, and masks beside one."""
        if self.mask_source != "path":
            if self.path_states is not None:
                raise ValueError(
                    f"path_states {self.path_states} is for the mask_source 'path', and it is {self.mask_source!r}; "
                    "set it to 'path', or leave path_states out"
                )
            return
        if self.mask_pairs > 1 or not self.complement:
            raise ValueError(
                f"mask_source 'path' has states in the place of mask pairs, but mask_pairs is {self.mask_pairs} and "
                f"complement is {str(self.complement).lower()}; leave both out, and set path_states"
            )
        if self.path_states is None and not self.share_masks:
            raise ValueError(
                "share_masks false changes nothing where all states of a path are read; set path_states, or leave it"
            )


class EspoConfig(RandomMasks):
    """A clipped ratio of ELBOs per sequence, with a KL penalty (ESPO, arXiv 2512.03759).

    Defaults: the authors' recipe for Sudoku with LLaDA (ML-GSAI/ESPO, recipes/run_sudoku_llada.sh over train.yaml).
    """

    name: Literal["espo"] = "espo"
    mask_pairs: int = Field(2, ge=1, le=64, description="K: coupled mask pairs per completion; the recipe's num_mc")
    clip: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="epsilon: how far the ratio per token may move from 1, which it is while theta is old; the "
        "authors also use 0 (Countdown) and 4e-4",
    )
    kl_weight: float = Field(
        0.01, ge=0, le=1000, description="beta: weight of the KL penalty towards the base policy; 1e-3 for mathematics"
    )

    @property
    def needs_reference(self) -> bool:
        return self.kl_weight > 0


class SpgConfig(RandomMasks):
    """Raises a lower bound of good answers' likelihood and lowers an upper bound of bad ones' (SPG, arXiv 2510.09541).

    Defaults: "SPG with mixture" as the authors release it (facebookresearch/SPG, spg/slurm_scripts/spg_mix).
    """

    name: Literal["spg"] = "spg"
    mask_pairs: int = Field(
        2,
        ge=2,
        le=64,
        description="K: coupled mask pairs per completion; with one, eubo_power would have no effect on the gradient",
    )
    eubo_power: float = Field(
        1.5, ge=1, le=100, description="b of the upper bound; the authors use 1.5, and 1 for Sudoku"
    )
    mix: float = Field(
        0.5,
        ge=0,
        le=1,
        description="omega: share of the upper bound for bad answers, beside the ELBO; 0 is the ELBO alone",
    )


class Wd1Config(PromptMasks):
    """Weighted log-likelihood without a ratio (wd1, arXiv 2507.08838).

    Defaults: the authors' release (xiaohangt/wd1, trainer `wll_d1_neg` over wd1/train.yaml).
    """

    name: Literal["wd1"] = "wd1"
    guidance: float = Field(
        1.0, gt=0, le=1000, description="psi: weights are the group's softmax of +-psi * advantage; 1 in the release"
    )


class DiffuGrpoConfig(PromptMasks):
    """GRPO on one-step token likelihoods (diffu-GRPO of d1, arXiv 2504.12216).

    Defaults: the authors' train.yaml, as xiaohangt/wd1 (wd1/train.yaml) carries it on for its baseline.
    """

    name: Literal["diffu_grpo"] = "diffu_grpo"
    clip: float = Field(
        0.5, gt=0, lt=1, description="epsilon: how far a token's ratio may move from 1, which it is while theta is old"
    )
    kl_weight: float = Field(0.04, ge=0, le=1000, description="beta: weight of the KL penalty towards the base policy")

    @property
    def needs_reference(self) -> bool:
        return self.kl_weight > 0


Objective = Annotated[
    Annotated[GdsdConfig, Tag("gdsd")]
    | Annotated[EspoConfig, Tag("espo")]
    | Annotated[SpgConfig, Tag("spg")]
    | Annotated[Wd1Config, Tag("wd1")]
    | Annotated[DiffuGrpoConfig, Tag("diffu_grpo")],
    by_name("gdsd"),
]
