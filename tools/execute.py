"""One notebook by papermill, its kernel reached through files: python tools/execute.py SETTINGS

SETTINGS are the arguments of `papermill.execute_notebook`, as JSON. papermill's own command reaches kernels through TCP
ports, which it finds free and leaves for the kernel to take; of two kernels that start at once, one may take another's.
"""

import json
import sys
from tempfile import TemporaryDirectory

import papermill
from traitlets.config import Config

if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        own = Config(KernelManager={"transport": "ipc", "connection_file": f"{folder}/kernel.json"})
        papermill.execute_notebook(**json.loads(sys.argv[1]), config=own)
