"""The parts of a long run: computed once, named once, and noted with the time they took."""

import flax
import jax.numpy as jnp
import numpy as np
import pytest

import lib
from lib.chapter import keeping


@pytest.fixture
def kept_in(monkeypatch, tmp_path):
    """A long run's folder, in a process that has asked for nothing yet."""
    monkeypatch.setattr(keeping, "_asked", set())
    monkeypatch.setenv("BOOK_FINGERPRINT", "0")
    monkeypatch.setenv("BOOK_KEPT", str(tmp_path))
    return tmp_path


def again(monkeypatch):
    """As in the next sitting."""
    monkeypatch.setattr(keeping, "_asked", set())


def test_by_hand_and_at_quick_scale_all_is_computed_and_nothing_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [lib.kept("one", lambda v=v: v).item() for v in (1.5, 2.5)] == [1.5, 2.5], "a cell may run twice"
    assert lib.checkpoint("one") is None
    assert keeping.Sitting().all() == []
    assert not list(tmp_path.iterdir())


def test_a_part_that_is_done_comes_back_as_it_was(kept_in, monkeypatch):
    part = lambda x: {"a": {"b": x * np.arange(3, dtype=np.float32)}, "n": 7}
    first = lib.kept("member 1", part, 2.0)
    again(monkeypatch)
    second = lib.kept("member 1", part, 5.0)
    assert second["a"]["b"].tobytes() == first["a"]["b"].tobytes()
    assert second["a"]["b"].dtype == first["a"]["b"].dtype == np.float32
    assert second["n"] == 7
    assert lib.checkpoint("training 1") == kept_in / "training 1"


def test_a_name_is_asked_for_once_for_it_would_bring_another_parts_numbers(kept_in):
    lib.kept("one", lambda: 1.5)
    with pytest.raises(ValueError, match="`name` must be one that no other part of the run has, got 'one' again"):
        lib.kept("one", lambda: 3.0)
    for name in ("", "../up", "a/b", ".hidden", "x" * 101, None, keeping.SITTINGS, "λ"):
        with pytest.raises(ValueError, match="`name` must be plain text"):
            lib.checkpoint(name)


def test_what_is_computed_and_what_is_read_are_the_same_in_order_kind_and_use(kept_in, monkeypatch):
    values = flax.core.FrozenDict(
        b=jnp.ones(2), a=np.arange(3, dtype=">i4"), flag=True, half=jnp.ones(2, jnp.bfloat16), z=2j
    )
    results = []
    for _ in range(2):
        results.append(lib.kept("one", lambda: values))
        again(monkeypatch)
    monkeypatch.delenv("BOOK_KEPT")
    results.append(lib.kept("one", lambda: values))
    for result in results:
        assert list(result) == ["a", "b", "flag", "half", "z"]
        assert [str(value.dtype) for value in result.values()][0::2] == ["int32", "bool", "complex128"]
        assert result["a"].tolist() == [0, 1, 2]
        result["b"][0] = 7.0
        assert result["b"].tolist() == [7.0, 1.0]


WRONG = [(1, 2), [1], {"a": (1,)}, {"a": None}, lambda: 1, "text", b"bytes", np.array(["text"]), {1: 1.0}]


@pytest.mark.parametrize("wrong", [*WRONG, {"__msgpack_chunked_array__": 1.0}, np.zeros(1, "f4,i4")])
def test_only_arrays_are_kept(kept_in, wrong):
    with pytest.raises(TypeError, match="'one' must compute an array of numbers or a dict of them by name, got"):
        lib.kept("one", lambda: wrong)
    assert not list(kept_in.rglob("*.msgpack"))


def test_sittings_add_up(kept_in):
    (kept_in / f".{keeping.SITTINGS}.1.partial").write_text("half")
    keeping.Sitting().end()
    two = keeping.Sitting().end()
    assert len(two) == 2
    assert keeping.sittings(kept_in)[0] == two[0]
    assert all(sitting["seconds"] >= 0 and sitting["device"] for sitting in two)
    assert [path.name for path in kept_in.iterdir()] == [keeping.SITTINGS]


@pytest.mark.parametrize("note", ["", "{", "[1]", '{"began": 1}', '[{"began": "then"}]'])
def test_a_note_that_cannot_be_read_stops_no_run(kept_in, note):
    (kept_in / keeping.SITTINGS).write_text(note)
    with pytest.warns(UserWarning, match="cannot be read; earlier sittings are not counted"):
        assert len(keeping.Sitting().end()) == 1
