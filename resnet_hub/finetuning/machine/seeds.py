"""Randomness by key: a number that depends on what it is for and on nothing that happened before."""

import hashlib


def random_key(*numbers: int) -> int:
    """A seed below 2**63 that is a function of the numbers alone, on every platform and in every process."""
    text = ",".join(str(number) for number in numbers).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
