"""What stays for good is not searched for garbage; what comes later is."""

import gc
import weakref

import pytest

from goodspeed_runtime.verifier.collection import exempt_loaded


@pytest.fixture
def as_before():
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class Loop:
    """An object that only the search finds to be garbage."""

    def __init__(self):
        self.itself = self


def test_what_was_there_is_exempt_and_what_refers_to_itself_later_is_still_found(as_before):
    loaded = Loop()
    exempt_loaded()
    assert gc.get_freeze_count() > 1000
    assert not any(each is loaded for each in gc.get_objects())
    later = weakref.ref(Loop())
    kept = [[] for _ in range(2 * gc.get_threshold()[0])]
    assert later() is None
    assert kept
