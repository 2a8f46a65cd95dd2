"""How a domain has its problems and answers drawn: as data, which the report turns into a page."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SIDE = 32  # rows and columns of a grid at most
TEXT = 16  # characters of a cell at most

Mark = Literal["given", "right", "wrong", "missing"]


class _Drawn(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Cell(_Drawn):
    """A cell of a grid. Its text may be hostile, as everything of an answer: the report escapes it."""

    text: str = Field(max_length=TEXT)
    mark: Mark
    # The character of the answer at which the text stands, counted from 0; None where it does not stand there as it is.
    # By it the report finds the step that unmasked the cell.
    place: int | None = Field(None, ge=0)


class Grid(_Drawn):
    """A grid of cells, with a line in words below it."""

    rows: list[list[Cell]] = Field(min_length=1, max_length=SIDE)
    box: int = Field(0, ge=0)  # rows and columns behind which a thicker line is drawn; 0 for none
    note: str = Field("", max_length=200)

    def model_post_init(self, _: object) -> None:
        """Refuses a row that is too long."""
        if (longest := max(map(len, self.rows))) > SIDE:
            raise ValueError(f"a row has {longest} cells; at most {SIDE} are drawn")
