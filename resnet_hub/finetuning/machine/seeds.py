"""Randomness by key: a number that depends on what it is for and on nothing that happened before."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def random_key(*numbers: int) -> int:
    """A seed below 2**63 that is a function of the numbers alone, on every platform and in every process."""
    text = ",".join(str(number) for number in numbers).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


@contextmanager
def keyed_randomness(*key: int) -> Iterator[None]:
    """Inside, torch's CPU generator draws what depends on `key` alone; outside it is untouched.

    Generators of other devices are left as they are.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(random_key(*key))
    try:
        yield
    finally:
        generator.set_state(before)
