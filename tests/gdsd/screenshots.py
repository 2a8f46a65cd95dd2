"""Pictures of a run's report for the documents, of the page that the present code makes of the run's folder.

python -m tests.gdsd.screenshots FOLDER
"""

import sys
from pathlib import Path

from tasks.gdsd import report, tables
from tasks.gdsd.run.provenance import Provenance
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.browsers import DESKTOP, PHONE, browser, opened

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "screenshots"


def main(folder: Path) -> None:
    """Writes what is in sight at first, on a desktop and a phone, then figures and an answer in the dark."""
    record = RunRecord.model_validate_json((folder / "run.json").read_text())
    origin = Provenance.model_validate_json((folder / "environment.json").read_text())
    page = report.render(record, tables.read(folder / "samples.parquet", tables.COMPARISON), origin)
    PICTURES.mkdir(exist_ok=True)
    with browser() as running:
        for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
            with opened(running, page, size) as seen:
                seen.page.screenshot(path=PICTURES / f"report-{name}.png")
        with opened(running, page, dark=True) as seen:
            seen.page.locator(".panels").screenshot(path=PICTURES / "report-dark.png")
            card = seen.page.locator(".card").first
            card.locator("summary").evaluate_all("all => all.forEach(one => one.parentElement.open = true)")
            card.screenshot(path=PICTURES / "report-answer.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
