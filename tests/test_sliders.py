"""Pictures that move: what they show, and that they need no kernel."""

import re

import numpy as np
import pytest
from bs4 import BeautifulSoup

from decoupled_esc.evaluate import strategy
from decoupled_esc.present import sliders

COUNTS = np.random.default_rng(0).integers(1, 30, (8, 8))


@pytest.mark.parametrize(("slider", "frames"), [
    (lambda: sliders.dpo_loss("profile x"), len(sliders.BETAS)),
    (lambda: sliders.bias_of_a_favourite(COUNTS, 0, "profile x"), len(sliders.SHARES)),
])  # fmt: skip
def test_a_slider_has_a_frame_a_value_and_shows_one(slider, frames):
    made = slider()
    page = BeautifulSoup(made._repr_html_(), "html.parser")
    images = page.find_all("img")
    assert len(images) == frames == len(page.input["data-labels"].split("|")) == int(page.input["max"]) + 1
    shown = [n for n, image in enumerate(images) if "block" in image["style"]]
    assert shown == [int(page.input["value"])]
    assert page.output.text == page.input["data-labels"].split("|")[shown[0]]
    assert all(image["src"].startswith("data:image/svg+xml;base64,") and image["alt"] for image in images)
    assert (
        page.input["aria-label"] and "<script" not in str(page) and "http" not in re.sub(r'src="[^"]*"', "", str(page))
    )
    assert slider()._repr_html_() == made._repr_html_(), "the same numbers give the same bytes"
    assert "0x" not in repr(made)


def texts(figure):
    return [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]


def test_the_loss_is_ln_2_at_no_margin_and_pulls_half_as_hard_as_beta():
    figure = sliders.draw_dpo_loss(0.5, "x")
    loss, pull = (axes.lines[0].get_ydata() for axes in figure.axes)
    assert loss[100] == pytest.approx(np.log(2)) and pull[100] == pytest.approx(0.25)
    assert "beta = 0.5" in texts(figure)[0]


def test_a_favourite_takes_b_to_its_bound_and_none_leaves_it():
    first, last = (texts(sliders.draw_bias(COUNTS, 3, share, "x"))[1] for share in (0.0, 1.0))
    assert f"B = {float(strategy.bias(COUNTS, 'paper')):.2f}" in first
    assert "B = 2.65" in last
