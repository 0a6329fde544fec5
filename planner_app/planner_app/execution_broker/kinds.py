"""The identifiers that the schema uses for `kind`, `type` and `path`."""

from planner_app.execution_broker import SCHEMA

_KINDS = f"{SCHEMA}/kinds"

DOCKER_CONTAINER = f"{_KINDS}/executable/docker-container.yaml"
SINGULARITY_CONTAINER = f"{_KINDS}/executable/singularity-container.yaml"
SIMPLE_COMPUTE = f"{_KINDS}/compute/simple-compute-resource.yaml"
SIMPLE_STORAGE = f"{_KINDS}/storage/simple-storage-resource.yaml"
SIMPLE_DATA = f"{_KINDS}/data/simple-data-resource.yaml"
SIMPLE_VOLUME_MOUNT = f"{_KINDS}/volume/simple-volume-mount.yaml"
SIMPLE_COST = f"{_KINDS}/costs/simple-minmax-float-cost.yaml"
SIMPLE_METRIC = f"{_KINDS}/metrics/simple-minmax-float-metric.yaml"
SCHEDULED_SESSION = f"{_KINDS}/session/scheduled-execution-session.yaml"
SIMPLE_SESSION = f"{_KINDS}/session/simple-execution-session.yaml"
OFFERSET = f"{_KINDS}/offerset/execution-offerset.yaml"

STRING_VALUE_OPTION = "uri:string-value-option"
ENUM_VALUE_OPTION = "uri:enum-value-option"
INTEGER_VALUE_OPTION = "uri:integer-value-option"
INTEGER_DELTA_OPTION = "uri:integer-delta-option"
STRING_VALUE_UPDATE = "uri:string-value-update"
ENUM_VALUE_UPDATE = "uri:enum-value-update"
INTEGER_VALUE_UPDATE = "uri:integer-value-update"
INTEGER_DELTA_UPDATE = "uri:integer-delta-update"

COST_TYPE_PREFIX = "urn:ivoa:calycopis:cost:"
METRIC_TYPE_PREFIX = "urn:ivoa:calycopis:metric:"
CONNECTOR_STDOUT = "urn:ivoa:calycopis:connector:stdout"
CONNECTOR_OUTPUTS = "urn:ivoa:calycopis:connector:outputs"
