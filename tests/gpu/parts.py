"""The questions in the order in which they are asked: first what the others stand on, and what is wanted most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A question that a GPU answers."""

    title: str
    seconds: int  # after which it is ended, or when those of all parts are over; what it has found by then is kept
    text: str  # what its table shows


LIMIT = 8 * 60  # seconds of all parts together: most take half of their own, of which 8 and more are imports
PARTS = {
    "peaks": Part(
        "What does the card reach?",
        45,
        "Large square products of random numbers, and copies from the card's memory to itself. Shares of *the product* "
        "below are of the first rows.",
    ),
    "tokens": Part(
        "Are the tokens the CPU's?",
        50,
        "Small random checkpoints of each family, in float32 on both. At temperature 0 all tokens have to be equal. "
        "Above it the same random numbers draw, so tokens differ only where rounding moves a number across a "
        "border. In bfloat16 that is often.",
    ),
    "gradients": Part(
        "Are losses and gradients the CPU's?",
        60,
        "One update of a small policy by each objective. *off* is the length of the difference of the gradients, as a "
        "share of the gradient. The last rows compare bfloat16 with float32 on the same device.",
    ),
    "rollouts": Part(
        "How fast are rollouts?",
        130,
        "Published shapes with random weights in bfloat16. *times dense* compares with a step that makes the logits of "
        "every token and draws by Gumbel noise, as samplers commonly do. *of the plan's peak* is what `describe` "
        "assumes as a share of the card's data sheet, for the products that it counts.",
    ),
    "updates": Part(
        "How fast are updates?",
        90,
        "An update of the same shapes, one round of a few completions in two views each. *times dense* compares with a "
        "step that takes a log-softmax of the logits of every token, with its gradient.",
    ),
    "shortage": Part(
        "Is a shortage of memory met?",
        45,
        "The same update with all the memory that it wants, and with less: micro-batches are cut until they fit, and "
        "the gradient stays what it was.",
    ),
    "learning": Part(
        "Does the default run learn as on the CPU?",
        80,
        "The first rounds of the default run from the same base, on both. Rounding makes completions differ sooner or "
        "later, so the rewards have to agree as two runs do, and not to the last digit.",
    ),
    "compiled": Part(
        "Where do compiling and CUDA graphs pay?",
        90,
        "One look of the exact engine at the whole text, by a few blocks of each shape: as it is, replayed as a CUDA "
        "graph, and compiled. The default model is too small to keep a GPU busy.",
    ),
    "quantised": Part(
        "What does a base of 4 bits cost?",
        60,
        "The first of these shapes with the blocks' weights in 4 bits, and an adapter in the update.",
    ),
    "processes": Part(
        "Do several GPUs train what one trains?",
        60,
        "One epoch in one process, and in one for each of two GPUs, by NCCL. *off* is the largest difference of a "
        "weight.",
    ),
}
