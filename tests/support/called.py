"""Functions that worker processes import and call."""

import os
import signal
import time

import torch


def doubled(item):
    """Twice a number; other items end the process or wait to be interrupted."""
    if item == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "raises":
        raise ValueError("of this item")
    if isinstance(item, str):  # a file that says how this call ended
        try:
            open(f"{item}.begun", "w").close()
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.5)
            open(f"{item}.kept", "w").close()
            raise
    return 2 * item, torch.get_num_threads()
