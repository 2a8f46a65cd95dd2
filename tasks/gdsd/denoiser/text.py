"""Between text and token ids: how a family phrases a prompt, which tokens are special, and where an answer ends."""

import re
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from tasks.gdsd.denoiser.families.base import PROMPT, Family, Special, Values
from tasks.gdsd.domains import alphabet
from tasks.gdsd.errors import CheckpointError, DataError


class Text:
    """The tokenizer of a policy, with what its family says of prompts and answers.

    Raises:
        CheckpointError: the tokenizer lacks a special token of the family, or config.json names another one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, family: Family, values: Values):
        self._tokenizer, self._family, self._values = tokenizer, family, values
        self._vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        self.mask, self.pad = self._find(family.mask), self._find(family.pad)
        self.never = tuple(map(self._find, family.never))
        ends = [self._find(end) for end in family.ends]
        # Where a tokenizer pads with a token of its own, as DiffuCoder's does, its model was trained on answers that
        # are followed by it, and writes it where it has nothing more to say.
        own_pad = tokenizer.pad_token_id
        if isinstance(own_pad, int) and own_pad not in (self.mask, self.pad, *self.never):
            ends.append(own_pad)
        self.ends = tuple(dict.fromkeys(ends))
        if self.mask in (self.pad, *self.ends):
            raise CheckpointError(f"the mask, {family.mask.text!r}, is also the padding or an end, so it says nothing")
        self._chat = [self._find(part) if isinstance(part, Special) else part for part in family.chat]
        # Text that a tokenizer reads as one of these would let a prompt speak for the template, or hold a mask.
        template = (part for part in self._chat if not isinstance(part, str))
        self._reserved = frozenset((self.mask, self.pad, *self.ends, *self.never, *template))
        spelled = [str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(self._reserved)]
        self._breaks = re.compile("|".join(f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in spelled))

    def _find(self, special: Special) -> int:
        """Returns the id of a special token."""
        in_text = None if special.text is None else self._vocabulary.get(special.text)
        if special.text is not None and in_text is None:
            raise CheckpointError(f"the tokenizer has no token {special.text!r}, which the family needs")
        in_config = None if special.key is None else self._values.get(special.key)
        if in_config is None:
            if in_text is None:
                raise CheckpointError(f"config.json names no {special.key}, which the family needs")
            return in_text
        if in_text is not None and in_config != in_text:
            raise CheckpointError(
                f"config.json says that {special.key} is {in_config!r}, "
                f"but the tokenizer's {special.text!r} is {in_text}"
            )
        if not isinstance(in_config, int) or in_config not in self._vocabulary.values():
            raise CheckpointError(f"config.json says that {special.key} is {in_config!r}, which is no token")
        return in_config

    def encode(self, text: str) -> list[int]:
        """Tokenises a prompt, phrased as the family's template has it.

        Whatever the prompt spells is read as text: no prompt can hold a mask, end its turn or speak for another role.

        Raises:
            DataError: the text has a character that the tokenizer does not know, or would be read as a special token.
        """
        if self._family.name == "tiny":  # not by its tokenizer, which would read a special token that a text spells
            if (said := self.lacking(text)) is not None:
                raise DataError(f"the prompt {said}")
            return [self._vocabulary[character] for character in text]
        prompt = text.strip() if self._family.strips_prompt else text
        ids: list[int] = []
        piece = ""  # text between special tokens is tokenised as a whole
        for part in self._chat:
            if isinstance(part, str):
                piece += prompt if part is PROMPT else part
                continue
            ids += [*self._encode_plain(piece), part]
            piece = ""
        return ids + self._encode_plain(piece)

    def _encode_plain(self, text: str) -> list[int]:
        """Tokenises text in which no special token is recognised, however it is spelled."""
        pieces = self._breaks.split(text)  # some tokenizers recognise some of them in spite of the option below
        encode = self._tokenizer.encode
        parts = [encode(piece, add_special_tokens=False, split_special_tokens=True) for piece in pieces]
        ids: list[int] = [token for part in parts for token in part]
        if spoken := self._reserved.intersection(ids):
            tokens = self._tokenizer.convert_ids_to_tokens(sorted(spoken))
            raise DataError(
                f"the prompt {text!r:.200} is read as the special tokens {tokens}; a prompt may not contain them"
            )
        return ids

    def lacking(self, text: str) -> str | None:
        """Says which characters of a text a tiny policy can neither read nor write; None where it can all of them.

        Published models lack none: their tokenizers fall back to bytes.
        """
        said = alphabet.lacking(text, self._vocabulary) if self._family.name == "tiny" else None
        return None if said is None else f"has {said}, which the policy's alphabet lacks"

    def ended(self, ids: Sequence[int]) -> bool:
        """Says whether a completion came to an end."""
        return not set(self.ends).isdisjoint(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion up to its first end token."""
        ids = list(ids)
        end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        return str(self._tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Returns the text of each token, ends included; what is but a part of a character has a sign in its place."""
        texts = {token: str(self._tokenizer.decode([token], skip_special_tokens=False)) for token in set(ids)}
        return [texts[token] for token in ids]
