"""Stage `report`: the record of a run comes in, and the pages that people read go out.

Read `page` first, which is the report of a run. `style` has the look of a page and its parts, `curves` its figures,
`drawn` the grids of a domain.
"""

from tasks.gdsd.report.folder import pair_samples, write
from tasks.gdsd.report.page import elsewhere, ended_page, progress_page, render

__all__ = ["elsewhere", "ended_page", "pair_samples", "progress_page", "render", "write"]
