"""What is kept comes back bit for bit, or an error says why not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib import storage
from lib.storage import Checkpoint, digest

TREE = {
    "a": jnp.arange(3.0),
    "half": jnp.ones((2, 0), jnp.bfloat16),
    "count": jnp.int32(7),
    "keys": (jax.random.key(1), jax.random.PRNGKey(2)),
    "odd": jnp.asarray([np.nan, -0.0, np.inf], jnp.float32),
}


def bits(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype), storage._plain(leaf).tobytes()), tree)


def test_a_state_comes_back_in_any_tree_bit_for_bit(tmp_path):
    with Checkpoint(tmp_path / "new" / "run", {"steps": 9}) as kept:
        assert kept.load(TREE) is None
        kept.save(3, TREE)
        step, state = kept.load(TREE)
    assert step == 3
    assert bits(state) == bits(TREE)
    assert sorted(path.name for path in (tmp_path / "new" / "run").iterdir()) == [".lock", storage.FILE]


def test_the_header_is_read_alone(tmp_path):
    storage.save(tmp_path / "file", {"seconds": 1.5}, {"x": np.ones(2), "inner": {"y": np.zeros(1)}})
    assert storage.header(tmp_path / "file")["seconds"] == 1.5
    _, arrays = storage.load(tmp_path / "file")
    assert arrays["inner"]["y"].tolist() == [0.0]


def test_a_checkpoint_of_another_run_is_refused_by_the_names_of_what_differs(tmp_path):
    run = {"steps": 9, "x": digest(jnp.ones(3)), "batch": None}
    with Checkpoint(tmp_path, run) as kept:
        kept.save(3, TREE)
    for changed, what in (
        (run | {"steps": 10, "x": digest(jnp.zeros(3))}, r"`steps` \(9 there, 10 here\), `x`\. "),
        ({name: run[name] for name in ("steps", "x")}, "`batch`"),
        (run | {"key": "new"}, "`key`"),
    ):
        with Checkpoint(tmp_path, changed) as other, pytest.raises(ValueError, match=f"which differs in {what}"):
            other.load(TREE)


@pytest.mark.parametrize("harm", ["cut", "bit", "step", "header", "empty", "foreign"])
def test_a_damaged_file_is_never_read_as_numbers(tmp_path, harm):
    with Checkpoint(tmp_path, {}) as kept:
        kept.save(3, TREE)
        whole = kept.path.read_bytes()
        at = whole.index(b"\n") + len(whole) // 4
        flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        step = whole.replace(b'"step": 3', b'"step": 7')
        harmed = {
            "step": step,
            "cut": whole[:-9],
            "bit": flipped,
            "header": whole[5:],
            "empty": b"",
            "foreign": b"[1]\nabc",
        }[harm]
        kept.path.write_bytes(harmed)
        with pytest.raises(ValueError, match=r"is damaged.*Delete it to begin again"):
            kept.load(TREE)


def test_two_at_once_are_refused(tmp_path):
    with Checkpoint(tmp_path, {}), pytest.raises(ValueError, match="is in use by another process"):
        Checkpoint(tmp_path, {}).__enter__()
    Checkpoint(tmp_path, {}).__enter__().__exit__()


def test_what_a_killed_process_has_left_half_written_goes(tmp_path):
    (tmp_path / f".{storage.FILE}.123.partial").write_bytes(b"half")
    with Checkpoint(tmp_path, {}) as kept:
        assert kept.load(TREE) is None
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_digest_is_of_places_shapes_dtypes_and_bits():
    same = [{"a": jnp.ones(2), "b": 1.0}, {"b": np.float64(1.0), "a": np.ones(2, jnp.ones(2).dtype)}]
    assert len({digest(tree) for tree in same}) == 1
    trees = [
        jnp.zeros(2),
        -jnp.zeros(2),
        jnp.zeros((2, 1)),
        jnp.zeros(2, int),
        [jnp.zeros(2)],
        (1, 2),
        (2, 1),
        "a",
        "b",
    ]
    assert len({digest(tree) for tree in trees}) == len(trees)
