"""The proof of a push: what the Hub gives back is what was sent, to the last bit, and answers alike."""

import hashlib
import tempfile
from pathlib import Path

import torch

from resnet_hub.downloads.download import CONFIG_FILE, WEIGHTS_FILE, Pinned, fetch
from resnet_hub.errors import HubError
from resnet_hub.hub.commit import PushRequest, Sent, bytes_of
from resnet_hub.hub.loading import load_files
from resnet_hub.hub.saving import answers


def read_back(request: PushRequest, sent: Sent) -> None:
    """Fetch the commit as a stranger would, and compare every byte and the answers of the model."""
    pinned = Pinned(repo_id=request.repo_id, commit=sent.commit, name=None, online=True)
    with tempfile.TemporaryDirectory(prefix="resnet_hub-read-back-") as scratch:
        for name, held in sent.contents.items():
            there = fetch(pinned, name, cache_dir=Path(scratch))
            if there.data != bytes_of(held):
                raise HubError(
                    f"{name} of {request.repo_id} at {sent.commit} is not what was sent: the Hub gives "
                    f"{hashlib.sha256(there.data).hexdigest()} for "
                    f"{hashlib.sha256(bytes_of(held)).hexdigest()}."
                )
        snapshot = fetch(pinned, CONFIG_FILE, cache_dir=Path(scratch)).path.parent
        published = load_files(snapshot / CONFIG_FILE, snapshot / WEIGHTS_FILE, source=request.repo_id).model
        folder = request.folder
        local = load_files(folder / CONFIG_FILE, folder / WEIGHTS_FILE, source=str(folder)).model
        if not torch.equal(answers(local), answers(published)):
            raise HubError(f"{request.repo_id} at {sent.commit} does not answer as the folder's model does.")
