"""What makes one deployment the same as another, and what a ballot says in few words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import util
from pathlib import Path
from typing import Any


def deployment_fingerprint(images: Sequence[Any], project: str, platforms: Sequence[Any]) -> str:
    """Hash the images, the planners' and the voter's program, and the virtual platforms.

    A job that ran on a deployment has shown that it works, and need not run on the same one again.
    """
    path = Path(project) / "roles/planner_app_bundle/filter_plugins/planner_app_bundle.py"
    spec = util.spec_from_file_location("planner_app_bundle_filters", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    bundle = util.module_from_spec(spec)
    spec.loader.exec_module(bundle)
    known = {"images": images, "program": bundle.bundle_key(project), "platforms": platforms}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def smoke_result(ballot: Mapping[str, Any], fingerprint: str, catalogue: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a ballot, as `caesar-vote run --json` prints it, what people want to know."""
    chosen: Mapping[str, Any] = next((candidate for candidate in ballot["candidates"] if candidate["chosen"]), {})
    times = [datetime.fromisoformat(line["time"].replace("Z", "+00:00")) for line in ballot["history"]]
    return {
        "fingerprint": fingerprint,
        "time": ballot["created"],
        "ballot": ballot["id"],
        "planner": ballot["winner"]["planner"],
        "reason": chosen.get("reason", ""),
        "policy": ballot["policy"],
        "asked": len({candidate["planner"] for candidate in ballot["candidates"]}),
        "offers": sum(1 for candidate in ballot["candidates"] if candidate["offer"] is not None),
        "vote_ms": ballot["timings"].get("total_ms"),
        "seconds": round((times[-1] - times[0]).total_seconds(), 1),
        "image": catalogue["metadata"]["image"],
        "sources": len(catalogue["sources"]),
        "components": catalogue["metadata"]["components"],
        "directory": ballot["directory"],
    }


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        """Name the filters of this file."""
        return {"deployment_fingerprint": deployment_fingerprint, "smoke_result": smoke_result}
