"""One notebook by papermill, its kernel reached through files: python tools/execute.py SETTINGS

SETTINGS are the arguments of `papermill.execute_notebook`, as JSON. papermill's own command reaches kernels through TCP
ports, which it finds free and leaves for the kernel to take; of two kernels that start at once, one may take another's.
"""

import json
import os
import signal
import sys
import time
from tempfile import TemporaryDirectory
from threading import Thread

import papermill
import psutil
from traitlets.config import Config

PATIENCE = 60  # seconds in which an interrupted kernel may save what it has done


def end_with(parent: int) -> None:
    """Once the process that started us is gone, killed maybe, nobody waits for the kernel: we interrupt it and end."""
    while os.getppid() == parent:
        time.sleep(0.5)
    for child in psutil.Process().children(recursive=True):
        child.send_signal(signal.SIGINT)
    time.sleep(PATIENCE)
    os._exit(1)  # and the kernel, which looks for us, ends too


if __name__ == "__main__":
    Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    with TemporaryDirectory() as folder:
        own = Config(KernelManager={"transport": "ipc", "connection_file": f"{folder}/kernel.json"})
        papermill.execute_notebook(**json.loads(sys.argv[1]), config=own)
