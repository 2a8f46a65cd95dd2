"""The pages that people read: what a run came to, and what it is doing.

`style` the look and the parts of a page; `curves` its figures; `page` the report of a run; `folder` the run's folder.
"""

from tasks.gdsd.report.folder import pair_samples, write
from tasks.gdsd.report.page import progress_page, render

__all__ = ["pair_samples", "progress_page", "render", "write"]
