"""The style's promises: an opaque card, lines told apart without colour, letters in reading order."""

import matplotlib as mpl
import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np

from lib.chapter import plotting


def test_the_background_is_opaque_white_inside_and_out():
    fig, (ax,) = plotting.figure()
    for face in (fig.get_facecolor(), ax.get_facecolor()):
        assert mpl.colors.to_rgba(face) == (1, 1, 1, 1)
    plt.close(fig)


def test_roles_differ_without_colour():
    styles = [role["linestyle"] for role in (plotting.NETWORK, plotting.EMPIRICAL, plotting.ANALYTIC, plotting.PAPER)]
    assert len(set(styles)) == 4


def test_colours_differ_in_grey_and_stand_out_from_white():
    """The first three colours, which carry meaning side by side, are far apart in luminance."""
    rgb = np.array([mpl.colors.to_rgb(color) for color in plotting.COLORS])
    luminance = rgb @ [0.2126, 0.7152, 0.0722]
    assert np.diff(np.sort(luminance[:3])).min() > 0.08
    assert luminance.max() < 0.75


def test_panels_are_lettered_in_reading_order():
    fig, panels = plotting.figure(2, 2)
    assert [ax.get_title(loc="left") for ax in panels] == ["(a)", "(b)", "(c)", "(d)"]
    plotting.label_axes(panels, [(name, "t", "f") for name in "pqrs"])
    assert [ax.get_title() for ax in panels] == list("pqrs")
    plt.close(fig)


def test_the_global_style_is_left_alone():
    before = dict(mpl.rcParams)
    plt.close(plotting.figure()[0])
    assert dict(mpl.rcParams) == before
