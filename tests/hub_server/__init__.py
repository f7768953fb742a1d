"""A Hub on loopback for tests: repositories on disk behind the HTTP API that the real clients speak.

It has no Xet store: files are sent and fetched as on a Hub without one, and `announces_xet` makes it say that
it has one, for clients that have to find the way without.

`HubServer` serves, `Fault` spoils an answer on demand, and the fixtures are in fixtures.py. It can also be
started by hand, to try a client against it: `python -m tests.hub_server FOLDER`.
"""

from tests.hub_server.faults import Fault
from tests.hub_server.server import HubServer
from tests.hub_server.storage import Repository, Storage

__all__ = ["Fault", "HubServer", "Repository", "Storage"]
