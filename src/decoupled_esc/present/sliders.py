"""Pictures that move: a slider over drawings made beforehand, which needs no kernel and works on the static page."""

import base64
import io
import zlib
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from decoupled_esc.evaluate import strategy
from decoupled_esc.present import figures
from decoupled_esc.present.rows import WithRows, marks

BETAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
SHARES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
MOVE = (
    "const box=this.closest('.frames');box.querySelectorAll('.frame').forEach((f,n)=>f.style.display=n==this.value?'block':'none');"
    "box.querySelector('output').textContent=this.dataset.labels.split('|')[this.value]"
)
"""The one script in the outputs of cells: `publish.check_site` refuses any other."""


class Slider(WithRows):
    """Drawings side by side in time; the slider shows one of them.  Its text form is its caption."""

    kind = "slider"

    def __init__(self, drawings: Mapping[str, Figure], caption: str, start: str):
        self.caption = caption
        self._rows = pd.concat({label: marks(figure) for label, figure in drawings.items()}, names=[caption])
        frames = [(label, _address(figure)) for label, figure in drawings.items()]
        first = list(drawings).index(start)
        name = f"slider-{zlib.crc32(caption.encode()):08x}"
        shown = "".join(
            f'<img class="frame" style="display:{"block" if n == first else "none"}" alt="{escape(f"{caption} {label}")}" src="{address}">'
            for n, (label, address) in enumerate(frames)
        )
        labels = "|".join(label for label, _ in frames)
        self._html = (
            f'<div class="frames" id="{name}"><label>{escape(caption)}: <output>{escape(start)}</output><br>'
            f'<input type="range" min="0" max="{len(frames) - 1}" value="{first}" step="1" style="width:20em;max-width:90%" '
            f'aria-label="{escape(caption)}" data-labels="{escape(labels)}" oninput="{MOVE}"></label>{shown}</div>'
        )

    def __repr__(self) -> str:
        return f"<Slider {self.caption}>"

    def body(self) -> str:
        return self._html

    def to_frame(self) -> pd.DataFrame:
        """The marks of every drawing."""
        return self._rows.droplevel(1)


def _address(figure: Figure) -> str:
    """The drawing as a data address: several drawings in one page would share the names of their parts."""
    out = io.BytesIO()
    with plt.rc_context({"svg.fonttype": "none"}):  # letters, not their outlines: a tenth of the size
        figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def dpo_loss(source: str) -> Slider:
    """The DPO loss of one pair over the margin of its log-ratios, for several beta."""
    return Slider({f"{beta:g}": draw_dpo_loss(beta, source) for beta in BETAS}, "beta", "0.2")


def draw_dpo_loss(beta: float, source: str) -> Figure:
    """The DPO loss (Rafailov et al. 2023, Eq. 7) and how hard it pulls, over the margin of the two log-ratios in nats."""
    margin = np.linspace(-20, 20, 201)
    figure, (loss, pull) = plt.subplots(1, 2, figsize=(7.2, 2.6))
    loss.plot(margin, np.logaddexp(0, -beta * margin))
    loss.set(title=f"Loss, beta = {beta:g}", xlabel="margin (nats)", ylim=(0, 10))
    pull.plot(margin, beta / (1 + np.exp(beta * margin)))
    pull.set(title="Pull (minus the slope)", xlabel="margin (nats)", ylim=(0, None))
    return figures.source_line(figure, source)


def bias_of_a_favourite(counts: Sequence[Sequence[int]], favourite: int, source: str) -> Slider:
    """What happens to B when a planner says ``favourite`` instead of its own choice, more and more often.

    ``counts`` int [8, 8], rows predicted and columns gold.
    """
    drawings = {f"{100 * share:.0f}%": draw_bias(counts, favourite, share, source) for share in SHARES}
    return Slider(drawings, "choices replaced by the favourite", "0%")


def draw_bias(counts: Sequence[Sequence[int]], favourite: int, share: float, source: str) -> Figure:
    """The confusions with ``share`` of all choices replaced by ``favourite``, the strengths behind B, and B."""
    w = np.asarray(counts, dtype=float) * (1 - share)
    w[favourite] += share * np.asarray(counts, dtype=float).sum(axis=0)
    preference, nothing = strategy.preference(w, "paper"), np.zeros(8)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0), width_ratios=(1, 1.3))
    left.imshow(w.T / np.maximum(w.sum(axis=0)[:, None], 1), cmap="Blues", vmin=0, vmax=1)
    for side in ("x", "y"):
        left.set(**{f"{side}ticks": range(8), f"{side}ticklabels": figures.SHORT})
    left.set(title="gold (rows) to predicted")
    left.tick_params(labelsize=7, length=0)
    left.grid(visible=False)
    right.bar(range(8), preference, color=figures.PALETTE[0])
    right.axhline(1, color="black", linewidth=0.7)
    right.set(title=f"strengths: B = {float(strategy.bias(w, 'paper')):.2f}, weighted F1 = {float(strategy.weighted_f1(w, nothing, 'drop')):.1f}",
              xticks=range(8), xticklabels=figures.SHORT, ylim=(0, 8))  # fmt: skip
    return figures.source_line(figure, source)
