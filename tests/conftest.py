"""Settings of every test process.

One thread each: pytest runs several processes, and threads that outnumber cores wait for each other. And Ctrl-C interrupts, as in a
terminal: a shell that starts the tests in the background has it ignored, and a test that sends it would wait.
"""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in the processes that tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
