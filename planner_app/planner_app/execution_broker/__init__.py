"""The wire of the IVOA Execution Broker API, schema version 1.0: models for each `kind`, JSON and YAML.

Names and types follow the published schema (uksrc/Calycopis-openapi, version 1.0.7, commit 1fde578,
CC-BY-SA-4.0); wording and patterns are our own.
"""

SCHEMA = "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0"
SCHEMA_VERSION = "1.0.7"
