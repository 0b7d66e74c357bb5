"""What holds for every test: one thread, and the same random numbers whatever ran before it.

One thread for each process: models this small lose time to the threads' waiting for each other.
Set before torch is imported, and inherited by the processes that tests start. On a machine that
does something else besides, the difference is a factor of ten and more.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random  # noqa: E402  (after the line above)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def same_numbers():
    """A test that fails by its draw fails each time, and not in one run of many.

    Fixtures that several tests share (of a module, a session) draw before the first of them.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
