"""`resnet-hub check`: whether a variant keeps the family's contract."""

import argparse

from resnet_hub.cli.conformance import check, import_variants
from resnet_hub.cli.models import refuse_unknown
from resnet_hub.cli.tables import print_rows


def run_check(arguments: argparse.Namespace) -> int:
    """Print a verdict for each part of the contract; 1 if one is broken."""
    if arguments.module:
        import_variants(arguments.module)
    refuse_unknown(arguments.model)
    verdicts = check(arguments.model)
    rows = [
        {"verdict": "ok" if v.passed else "FAILED", "check": v.name, "detail": v.detail} for v in verdicts
    ]
    print_rows(rows, as_json=arguments.json, title=arguments.model)
    return 0 if all(verdict.passed for verdict in verdicts) else 1
