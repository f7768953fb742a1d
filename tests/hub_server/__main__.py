"""Serve a folder by hand: `python -m tests.hub_server FOLDER`, then set what it prints."""

import sys
import threading
from pathlib import Path

from tests.hub_server import HubServer

with HubServer(Path(sys.argv[1])) as hub:
    print(f"HF_ENDPOINT={hub.url} HF_TOKEN={next(iter(hub.tokens))} HF_HUB_DISABLE_XET=1", flush=True)
    threading.Event().wait()
