"""What caesar-rest and its database are made of."""

from __future__ import annotations

import service_manifests as made


def test_each_part_of_caesar_rest_has_its_container() -> None:
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["spec"]
        for item in made.caesar_rest()
        if item["kind"] == "Deployment"
    }
    containers = {name: [each["args"] for each in pod["containers"]] for name, pod in pods.items()}
    assert containers == {"caesar-rest": [["app"]], "caesar-rest-jobmonitor": [["monitor"], ["accounter"]]}
    for container in pods["caesar-rest-jobmonitor"]["containers"]:
        [alive] = [each["value"] for each in container["env"] if each["name"] == "ALIVE_FILE"]
        assert alive in str(container["startupProbe"])
        assert alive in str(container["livenessProbe"])
