"""What a page of the built book lets a reader take along: the rows behind every figure and table, and how its results were made."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from datetime import date
from html import escape
from pathlib import Path

import nbformat
import pandas as pd

from decoupled_esc.pipeline.schedule import few, span
from decoupled_esc.pipeline.store import Stored
from decoupled_esc.present.rows import MIME, checksum

FOLDER = "_static/data"
ANCHOR = re.compile(r'(<(?:div|td|tr)\b[^>]*? id=")((?:table|slider|explorer|verdict)-[\w-]+)"')
TABLE = re.compile(r'<div class="with-rows" id="([\w-]+)" data-csv="(\w+)">.*?<p class="data-links">(?=</p>)', re.S)
FIGURE = re.compile(
    r'<figure[^>]* id="([\w-]+)"(?:(?!</figure>).)*?_images/(\w{64})\.svg(?:(?!</figure>).)*(?=</figcaption>)', re.S
)


def add_downloads(html: Path, notebooks: Iterable[Path]) -> None:
    """Writes the rows that the chapters carry into `_static/data/` as CSV and JSON, and links to them below figure or table.

    A chapter's last line says how its results were made.  Anchors of tables and verdicts that a page has twice get a number.
    """
    for path in notebooks:
        page = html / "notebooks" / f"{path.stem}.html"
        if not page.exists():
            continue
        notebook = nbformat.read(path, as_version=4)
        carried = dict(_carried(notebook))
        text = once(page.read_text(encoding="utf-8"))
        for place in (TABLE, FIGURE):
            text = place.sub(lambda found: found[0] + _links(found[1], carried.get(found[2]), path.stem, html), text)
        if made := notebook.metadata.get("decoupled_esc", {}).get("made"):
            text = text.replace("</article>", f'<p class="made">{escape(_sentence(made))}</p>\n</article>', 1)
        page.write_text(text, encoding="utf-8")


def _carried(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    """(by which a page knows them, rows as CSV) of every output that carries rows: a checksum, or that of the picture."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        if data.get(MIME, "").strip():
            yield checksum(data[MIME]), data[MIME]
            if "image/svg+xml" in data:  # as myst-nb names the file
                picture = "\n".join(data["image/svg+xml"].splitlines())
                yield hashlib.sha256(picture.encode()).hexdigest(), data[MIME]


def once(text: str) -> str:
    """`text` with a number behind the second and later anchors of one name; a section keeps its own."""
    seen = dict.fromkeys(re.findall(r'<section id="([^"]+)"', text), 1)

    def numbered(found: re.Match) -> str:
        seen[found[2]] = count = seen.get(found[2], 0) + 1
        return found[0] if count == 1 else f'{found[1]}{found[2]}-{count}"'

    return ANCHOR.sub(numbered, text)


def _links(name: str, csv: str | None, chapter: str, html: Path) -> str:
    """The line of links below a figure or table; writes what they lead to."""
    if csv is None:
        return ""
    folder, stem = html / FOLDER, f"{chapter}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.csv").write_text(csv, encoding="utf-8")
    rows = json.loads(read_csv(csv).to_json(orient="table", index=False, double_precision=15))
    about = {"name": stem, "path": f"notebooks/{chapter}.html#{name}"}
    (folder / f"{stem}.json").write_text(json.dumps(about | rows, ensure_ascii=False) + "\n", encoding="utf-8")
    files = " · ".join(
        f'<a href="../{FOLDER}/{stem}.{kind}" download aria-label="{kind.upper()} of {name}">{kind.upper()}</a>'
        for kind in ("csv", "json")
    )
    line = f'<a href="#{name}" aria-label="Link to {name}">Link</a> · {files}'
    return line if name.startswith(("table-", "slider-", "explorer-")) else f'<p class="data-links">{line}</p>'


def read_csv(csv: str | Path) -> pd.DataFrame:
    """Rows as they were carried: an empty field is missing, and no word stands for that."""
    return pd.read_csv(io.StringIO(csv) if isinstance(csv, str) else csv, keep_default_na=False, na_values=[""])


# --- How results were made ---


def how_made(results: Iterable[Stored], before: Iterable[Stored]) -> dict:
    """What a chapter says of the making of its `results`, and of the results that these were made from."""
    said = [stored.provenance for stored in results]
    if not said:
        return {}
    earlier = [stored.provenance for stored in before]
    seconds, seconds_before = (sum(one.get("wall_seconds") or 0 for one in some) for some in (said, earlier))
    machines = {_machine(one["hardware"]) for one in said + earlier if one.get("hardware")}
    return {
        "results": len(said), "seconds": round(seconds, 1), "before": len(earlier), "seconds_before": round(seconds_before, 1),
        "dates": sorted({one["date"] for one in said + earlier if one.get("date")}), "machines": sorted(machines),
        "commits": sorted({one["commit"] for one in said if one.get("commit")}),
    }  # fmt: skip


def _machine(hardware: dict) -> str:
    gpu = f", {hardware['gpu']}" if hardware.get("gpu") else ""
    return f"{hardware['machine']} {hardware['system']}, {hardware['cores']} cores{gpu}"


def _sentence(made: dict) -> str:
    """`how_made` in words."""
    days = [f"{date.fromisoformat(day):%-d %B %Y}" for day in made["dates"]]
    when = days[0] if len(days) == 1 else f"between {days[0]} and {days[-1]}"
    on = " and on ".join(made["machines"])
    earlier = (
        f", after {span(made['seconds_before'])} for {made['before']} results behind them that are kept"
        if made["before"]
        else ""
    )
    count = f"{made['results']} results" if made["results"] > 1 else "1 result"
    code = f"; code: commit {few(made['commits'], 4)}" if made["commits"] else ""
    return f"This page shows {count}, made in {span(made['seconds'])} of computing{earlier}; {when}, on {on}{code}."
