"""Small drafters propose only what their target nearly always says."""

import numpy as np
import pytest

from goodspeed_runtime.models.builtin import PROPOSALS
from goodspeed_runtime.models.proposals import most_frequent, read_proposals

VOCABULARY = 49152


def test_the_most_frequent_ids_are_kept_then_the_lowest_and_all_rise():
    assert most_frequent([[7, 7, 9], [9, 7, 3]], 2, 20).tolist() == [7, 9]
    assert most_frequent([[7, 7, 9]], 4, 20).tolist() == [0, 1, 7, 9]
    assert most_frequent([], 30, 5).tolist() == [0, 1, 2, 3, 4]


def test_the_list_that_ships_fits_its_targets_vocabulary_and_holds_the_stop_token():
    ids = read_proposals(PROPOSALS, VOCABULARY)
    assert ids.dtype == np.int32
    assert len(ids) == 8192
    assert 2 in ids


@pytest.mark.parametrize(
    "content",
    [
        np.array([3, 2]),
        np.array([2, 2]),
        np.array([-1, 2]),
        np.array([1, 50]),
        np.array([], np.int32),
        np.zeros((2, 2), np.int32),
        np.array([0.5, 1.5]),
    ],
    ids=["falling", "twice", "negative", "outside", "empty", "a matrix", "fractions"],
)
def test_a_file_that_is_no_list_of_ids_is_refused_by_name(tmp_path, content):
    file = tmp_path / "proposals.npy"
    np.save(file, content)
    with pytest.raises(ValueError, match=r"proposals\.npy"):
        read_proposals(file, 50)


def test_pickles_are_never_read(tmp_path):
    file = tmp_path / "proposals.npy"
    np.save(file, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        read_proposals(file, 50)
