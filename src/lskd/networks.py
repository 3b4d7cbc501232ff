"""What the networks of one run are called: its own, its peers', and all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OWN, ENSEMBLE = "own", "ensemble"
# The first peer, the second, and so on.
PEERS = ("peer", "peer2", "peer3", "peer4", "peer5", "peer6", "peer7", "peer8")
NETWORKS = (OWN, *PEERS, ENSEMBLE)


def of_networks(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a record, or a line of a log, says of each peer, and of the ensemble, by these names; nothing where the run
    has its own network alone."""
    found = dict(zip(PEERS, record.get("peers", ()), strict=False))
    return found | {ENSEMBLE: record[ENSEMBLE]} if ENSEMBLE in record else found


def of_network(record: Mapping[str, Any], network: str) -> Mapping[str, Any]:
    """What it says of one of them; of the run's own network, that is all."""
    return record if network == OWN else of_networks(record).get(network, {})
