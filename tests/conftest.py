"""One thread per process: pytest runs several, and threads that outnumber cores wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in the processes that tests start
