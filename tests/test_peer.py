"""The environments of the benchmarks' peers: made once, made anew from other pins, and clear about what failed."""

import pytest

from benchmarks import peer

pytestmark = pytest.mark.once


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A peer that is Python with pip alone, in a folder of its own."""
    monkeypatch.setenv(peer.VARIABLE, str(tmp_path))
    monkeypatch.setattr(peer, "PINS", {"bare": ("pip",), "absent": (f"{tmp_path}/no_such_wheel.whl",)})
    return tmp_path


def script(folder, text):
    path = folder / "script.py"
    path.write_text("import json, sys\ntask = json.load(sys.stdin)\n" + text)
    return path


def test_a_script_runs_in_an_environment_of_its_own_that_is_made_once(bare, monkeypatch, capfd):
    told = script(bare, "print('noise')\nprint(json.dumps([sys.prefix, task['n'] + 1]))")
    assert peer.run("bare", told, n=1) == [str(bare / "bare"), 2]
    assert "Installing bare" in capfd.readouterr().err
    assert peer.run("bare", told, n=2)[1] == 3
    assert capfd.readouterr().err == ""
    monkeypatch.setitem(peer.PINS, "bare", ("pip>=1",))
    peer.environment("bare")
    assert "Installing bare" in capfd.readouterr().err
    with pytest.raises(peer.PeerError, match=r"(?s)script.py failed under bare:.*KeyError: 'm'"):
        peer.run("bare", script(bare, "task['m']"), n=1)


def test_a_peer_that_cannot_be_installed_says_so(bare):
    with pytest.raises(peer.PeerError, match=r"(?s)absent cannot be installed for Python 3.*no_such_wheel"):
        peer.environment("absent")
