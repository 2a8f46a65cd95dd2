"""The denoiser reads in both directions, ignores padding, and its tokenizer loses nothing."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tasks.gdsd.config.policy import TinyModelConfig
from tasks.gdsd.denoiser import checkpoint, tiny
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.domains.alphabet import ALPHABET, of_texts
from tasks.gdsd.errors import DataError


@pytest.mark.parametrize("padding", [0, 3])
@torch.no_grad()
def test_every_row_sees_every_token(denoiser: Denoiser, padding: int) -> None:
    """If it fails, the policy reads causally: a hidden token is predicted without what follows it.

    Without padding no mask is passed, which is the call on which a causal default would slip in.
    """
    ids = torch.tensor([[denoiser.pad_id] * padding + denoiser.encode("12.4=")])
    attention = torch.arange(ids.shape[1])[None] >= padding
    states = denoiser(ids, attention)[0, padding:]
    for position in range(5):
        changed = ids.clone()
        changed[0, padding + position] = denoiser.encode("7")[0]
        moved = (denoiser(changed, attention)[0, padding:] - states).abs().amax(1)
        assert moved.min().item() > 1e-4, f"token {position} is not seen by every row: {moved.tolist()}"


@torch.no_grad()
def test_left_padding_and_its_content_are_not_read(denoiser: Denoiser) -> None:
    """If it fails, a prompt is understood differently in another batch."""
    prompt = denoiser.encode("12.4=")
    alone = denoiser(torch.tensor([prompt]))[0]
    for filler in (denoiser.pad_id, denoiser.encode("9")[0]):
        padded = torch.tensor([[filler] * 4 + prompt])
        states = denoiser(padded, torch.arange(9)[None] >= 4)[0, 4:]
        torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-5)


def test_text_survives_the_tokenizer(denoiser: Denoiser) -> None:
    """If it fails, the verifier judges another text than the policy wrote."""
    for text in (ALPHABET, "1 . 2 , 3 : = ( 4 )", "  two  spaces  ", "12..34..=", "x"):
        assert denoiser.decode(denoiser.encode(text)) == text
        assert len(denoiser.encode(text)) == len(text)


@pytest.mark.parametrize(
    "text", ["A", "1\n2", "<mask>", "<end>", "<pad>", "é", "\N{FULLWIDTH DIGIT ONE}", "a\x00b", "\t"]
)
def test_unknown_characters_are_refused(denoiser: Denoiser, text: str) -> None:
    """If it fails, a prompt is silently read as padding, or a prompt can contain the mask."""
    with pytest.raises(DataError, match=r"the prompt has .* \(U\+.*, near .*, which the policy's alphabet lacks"):
        denoiser.encode(f"1{text}2")


def test_the_plain_alphabet_has_the_tokens_that_it_always_had(denoiser: Denoiser) -> None:
    """If it fails, the default experiment gives other numbers, and policies that were stored read other characters."""
    assert denoiser.encode(ALPHABET) == list(range(3, 51))
    specials = {"<end>": 0, "<pad>": 1, "<mask>": 2}
    assert denoiser.tokenizer.get_vocab() == specials | {own: 3 + place for place, own in enumerate(ALPHABET)}


TEXTS = (
    "Stra\u00dfe: \u00e9 or e\u0301, \u6f22\u5b57",
    "\n\n\t <mask><end><pad>",
    "\U0001f44d\u200d\u2028\xa0\ufeff\r\n",
    "",
)


def test_an_alphabet_of_ones_own_is_kept_with_the_policy(tmp_path: Path) -> None:
    """If it fails, a policy of a user's own characters reads or writes others after a round, a night or elsewhere."""
    made = tiny.build(TinyModelConfig(hidden_size=16, layers=1, heads=2), 0, of_texts(TEXTS))
    checkpoint.save(tmp_path / "policy", checkpoint.base_state(made))
    checkpoint.rebase(tmp_path / "policy", tmp_path / "base")
    for denoiser in (
        made,
        *(checkpoint.load(tmp_path / name, torch.device("cpu")).denoiser for name in ("policy", "base")),
    ):
        for text in TEXTS:
            ids = denoiser.encode(text)
            assert len(ids) == len(text) and denoiser.decode(ids) == text and denoiser.pieces(ids) == list(text)
        with pytest.raises(DataError, match="has 'x'"):
            denoiser.encode("x")
    plain = tmp_path / "policy"
    assert AutoTokenizer.from_pretrained(plain).encode("\n\n\u00e9", add_special_tokens=False) == made.encode(
        "\n\n\u00e9"
    )


def test_equal_seeds_build_equal_policies() -> None:
    """If it fails, a run is not reproducible from its first weights on, or all seeds give the same run."""
    shape = TinyModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2)
    torch.manual_seed(0)
    first = tiny.build(shape, 3).state_dict()
    torch.manual_seed(1)
    again, other = tiny.build(shape, 3).state_dict(), tiny.build(shape, 4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.lm_head.weight"], other["network.lm_head.weight"])
