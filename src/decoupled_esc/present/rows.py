"""The numbers behind what a chapter shows: figures and tables carry their rows as CSV in the output of their cell.

JupyterLab and nbval see them beside the picture or the HTML, and `publish.downloads` turns them into files of the built book.
"""

import re
import zlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

MIME = "text/csv"
MARKS = ["panel", "series", "mark", "x", "x label", "y", "y label", "low", "high", "value", "count"]
"""What `marks` says of a mark of a figure, where it applies."""
MOST_CELLS = 4096


def as_csv(frame: pd.DataFrame) -> str:
    """``frame`` as CSV, numbers with six significant digits; an index of words becomes the first columns."""
    frame = frame.rename(columns=lambda name: " ".join(map(str, name)) if isinstance(name, tuple) else str(name))
    if not isinstance(frame.index, pd.RangeIndex):
        names = [str(name or "row") for name in frame.index.names]
        frame = frame.reset_index(names=names, allow_duplicates=True)
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def checksum(csv: str) -> str:
    """By which a place in a page finds its rows."""
    return f"{zlib.crc32(csv.encode()):08x}"


def slug(text: str) -> str:
    """An anchor: small letters, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def with_rows(name: str, html: str, frame: pd.DataFrame) -> str:
    """``html`` under the anchor ``name``, with a place for links to the rows of ``frame``."""
    box = f'<div class="with-rows" id="{name}" data-csv="{checksum(as_csv(frame))}">'
    return f'{box}{html}<p class="data-links"></p></div>'


class WithRows:
    """What shows HTML and carries its rows.  Subclasses have a ``caption``, ``body()`` (HTML) and ``to_frame()``."""

    kind = "table"

    def _repr_html_(self) -> str:
        name = slug(" ".join([self.kind, *re.split(r"[.;:,(]", self.caption)[0].split()[:8]]))
        return with_rows(name, self.body(), self.carried())

    def carried(self) -> pd.DataFrame:
        return self.to_frame()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {MIME: as_csv(self.carried())}


class Drawing:
    """A figure that carries its marks; for the notebook it is the figure."""

    def __init__(self, figure: Figure):
        self.figure = figure

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        from IPython.core.formatters import format_display_data

        data, metadata = format_display_data(self.figure)
        return data | {MIME: as_csv(marks(self.figure))}, metadata


def marks(figure: Figure) -> pd.DataFrame:
    """Every mark of a figure as a row with the columns `MARKS`, those that stay empty left out.

    Points of lines and scatters, bars (their length), intervals and bands (``low`` to ``high`` along the other axis), levels
    across a panel, cells of a matrix with their ``value``, and words that stand at a place.  ``x label`` and ``y label`` are
    the words of the nearest tick.  A matrix of more than 4,096 cells gives the count of cells of each value.
    """
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    rows = []
    for number, axes in enumerate(panels, start=1):
        titles = [axes.get_title(loc=place) for place in ("left", "center", "right")]
        name = "".join(titles) or (f"panel {number}" if len(panels) > 1 else None)
        for row in _marks(axes):
            row |= {f"{side} label": _tick(getattr(axes, f"{side}axis"), row.get(side)) for side in "xy"}
            row["panel"] = name and name.replace("\n", " ")
            rows.append(row)
    return pd.DataFrame(rows, columns=MARKS).dropna(axis=1, how="all")


def _marks(axes: Axes) -> Iterator[dict]:
    bars = [group for group in axes.containers if isinstance(group, BarContainer)]
    matrices = [*axes.images, *(one for one in axes.collections if isinstance(one, QuadMesh))]
    for group in bars:
        for bar in group:
            (left, bottom), width, height = bar.get_xy(), bar.get_width(), bar.get_height()
            across = group.orientation == "horizontal"
            place = {"x": width, "y": bottom + height / 2} if across else {"x": left + width / 2, "y": height}
            yield {"series": _label(group), "mark": "bar", **place}
    for line in axes.lines:
        yield from _line(line, axes)
    for group in axes.collections:
        if isinstance(group, LineCollection):
            for segment in group.get_segments():
                yield from _interval(segment)
        elif isinstance(group, PolyCollection) and not isinstance(group, QuadMesh):
            for path in group.get_paths():
                band = pd.DataFrame(path.vertices, columns=["x", "y"]).groupby("x").y.agg(["min", "max"])
                for x, low, high in band.itertuples():
                    yield {"series": _label(group), "mark": "band", "x": x, "low": low, "high": high}
        elif isinstance(group, PathCollection):
            offsets, values = np.asarray(group.get_offsets()), group.get_array()
            for place, (x, y) in enumerate(offsets):
                value = None if values is None else values[place]
                yield {"series": _label(group), "mark": "point", "x": x, "y": y, "value": value}
    for matrix in matrices:
        yield from _cells(matrix)
    for text in () if bars or matrices else axes.texts:
        x, y = text.get_position() if text.get_transform() == axes.transData else (None, None)
        yield {"series": " ".join(text.get_text().split()), "mark": "text", "x": x, "y": y}


def _line(line: Line2D, axes: Axes) -> Iterator[dict]:
    """Points; an interval, where two of no name share an x or a y; a level, where it crosses the panel and has a name."""
    points, label = np.asarray(line.get_xydata(), dtype=float), _label(line)
    in_x, in_y = line.get_transform().contains_branch_seperately(axes.transData)
    if not (in_x and in_y):
        if label and (in_x or in_y):
            yield {"series": label, "mark": "level", "xy"[in_y]: points[0, int(in_y)]}
    elif label is None and len(points) == 2 and (points[0] == points[1]).any():
        yield from _interval(points)
    else:
        mark = "point" if line.get_linestyle() in ("None", "", " ") else "line"
        yield from ({"series": label, "mark": mark, "x": x, "y": y} for x, y in points)


def _interval(ends: np.ndarray) -> Iterator[dict]:
    """The interval between two ends [2, 2] that share an x or a y."""
    if len(ends) == 2 and (ends[0] == ends[1]).any():
        along = int(ends[0, 0] == ends[1, 0])
        low, high = sorted(ends[:, along])
        yield {"mark": "interval", "yx"[along]: ends[0, 1 - along], "low": low, "high": high}


def _cells(matrix) -> Iterator[dict]:
    """Column, row and value of every cell; of a large matrix how many cells have which value."""
    values = np.ma.getdata(matrix.get_array())
    if values.size > MOST_CELLS:
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            yield {"mark": "cells", "value": value, "count": count}
        return
    # A heat map's first cell begins at 0, an image's has its middle there.
    middle = 0.5 if isinstance(matrix, QuadMesh) else 0.0
    for (row, column), value in np.ndenumerate(values):
        yield {"mark": "cell", "x": column + middle, "y": row + middle, "value": value}


def _label(artist) -> str | None:
    """Its name in the legend."""
    label = str(artist.get_label() or "")
    return None if label.startswith("_") or not label else label


def _tick(axis: Axis, place: float | None) -> str | None:
    """The word at the tick nearest to ``place``, where ticks have words and one is less than half a step away."""
    formatter, locator = axis.get_major_formatter(), axis.get_major_locator()
    has_words = isinstance(formatter, FixedFormatter | FuncFormatter) and isinstance(locator, FixedLocator)
    if place is None or not has_words or not len(locator.locs):
        return None
    ticks = np.asarray(locator.locs, dtype=float)
    near = int(np.abs(ticks - place).argmin())
    step = np.diff(np.sort(ticks)).min() if len(ticks) > 1 else 1.0
    return " ".join(formatter(ticks[near], near).split()) or None if abs(ticks[near] - place) <= step / 2 else None
