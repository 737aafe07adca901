"""The slider carries its frames and texts inside the page, and nothing from outside."""

import json
import re

import pytest

from lib import slider
from lib.chapter import plotting


def draw(value):
    fig, (ax,) = plotting.figure(height=1.0)
    ax.plot([0, value])
    return fig


def page(**changes):
    return slider(draw, [1, 2, 3], **{**dict(name="s", label="t", alt="a <line>"), **changes}).data


def test_every_frame_is_there_and_differs():
    frames = json.loads(re.search(r"frames = (\[.*?\]), values", page())[1])
    assert len(set(frames)) == 3
    assert all(frame.startswith("data:image/png;base64,") for frame in frames)


def test_it_starts_where_it_is_told():
    assert re.search(r'value="1".*?<output>2</output>', page(start=1), re.DOTALL)


def test_words_are_escaped_and_nothing_is_loaded_from_outside():
    assert 'alt="a &lt;line&gt;"' in page()
    assert "http" not in page()


def test_start_must_be_an_index():
    with pytest.raises(ValueError, match="`start` must be an index of the 3 `values`"):
        page(start=3)
