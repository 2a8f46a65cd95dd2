"""The questions, in the order in which they are asked. All of them together take at most eight minutes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A question that a GPU answers."""

    title: str
    seconds: int  # after which it is ended; what it has found by then is kept
    text: str  # what its table shows


# Seconds of a start are about 8: imports, and the GPU's own.
PARTS = {
    "peaks": Part(
        "What does the card reach?",
        20,
        "Large square products of random numbers, and copies from the card's memory to itself. Shares of *the product* "
        "below are of the first rows.",
    ),
    "tokens": Part(
        "Are the tokens the CPU's?",
        40,
        "Small random checkpoints of each family, in float32 on both. At temperature 0 all tokens have to be equal. "
        "Above it the same random numbers draw, so tokens differ only where rounding moves a number across a "
        "border. In bfloat16 that is often.",
    ),
    "gradients": Part(
        "Are losses and gradients the CPU's?",
        40,
        "One update of a small policy by each objective. *off* is the length of the difference of the gradients, as a "
        "share of the gradient. The last rows compare bfloat16 with float32 on the same device.",
    ),
    "shortage": Part(
        "Is a shortage of memory met?",
        25,
        "The same update with all the memory that it wants, and with less: micro-batches are cut until they fit, and "
        "the gradient stays what it was.",
    ),
    "rollouts": Part(
        "How fast are rollouts?",
        110,
        "Published shapes with random weights in bfloat16. *times dense* compares with a step that makes the logits of "
        "every token and draws by Gumbel noise, as samplers commonly do. *of the plan's peak* is what `describe` "
        "assumes as a share of the card's data sheet, for the products that it counts.",
    ),
    "updates": Part(
        "How fast are updates?",
        60,
        "An update of the same shapes, one round of a few completions in two views each. *times dense* compares with a "
        "step that takes a log-softmax of the logits of every token, with its gradient.",
    ),
    "quantised": Part(
        "What does a base of 4 bits cost?",
        35,
        "The first of these shapes with the blocks' weights in 4 bits, and an adapter in the update.",
    ),
    "compiled": Part(
        "Where do compiling and CUDA graphs pay?",
        55,
        "One look of the exact engine at the whole text, by a few blocks of each shape: as it is, replayed as a CUDA "
        "graph, and compiled. The default model is too small to keep a GPU busy.",
    ),
    "processes": Part(
        "Do several GPUs train what one trains?",
        35,
        "One epoch in one process, and in one for each of two GPUs, by NCCL. *off* is the largest difference of a "
        "weight.",
    ),
    "learning": Part(
        "Does the default run learn as on the CPU?",
        50,
        "The first rounds of the default run from the same base, on both. Rounding makes completions differ sooner or "
        "later, so the rewards have to agree as two runs do, and not to the last digit.",
    ),
}
