"""One thread for each process: models this small lose time to the threads' waiting for each other.

Set before torch is imported, and inherited by the processes that tests start. On a machine that
does something else besides, the difference is a factor of ten and more.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
