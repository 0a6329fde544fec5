"""Render any number of files on the controller and hand them to the module `files` in one call.

A template task costs two module runs (0.43 s over ssh); a role with ten templates would spend four seconds to
find that nothing changed. This action renders all templates of one task here and ships them together.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.text.converters import to_bytes
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

SOURCES = ("template", "content", "src")


class ActionModule(ActionBase):  # type: ignore[misc]
    """The controller's half of `files`: see the module's documentation for the options."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Render every entry and run the module once; raises AnsibleActionFail on an entry that cannot be."""
        super().run(tmp, task_vars)
        entries = self._task.args.get("files")
        if not isinstance(entries, list):
            raise AnsibleActionFail("files: give a list of entries, each with a path")
        shipped = [self._ship(entry, task_vars or {}) for entry in entries]
        return dict(self._execute_module(module_name="files", module_args={"files": shipped}, task_vars=task_vars))

    def _ship(self, entry: Any, task_vars: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(entry, Mapping) or not entry.get("path"):
            raise AnsibleActionFail(f"files: an entry needs a path: {entry!r}")
        named = [source for source in SOURCES if entry.get(source) is not None]
        if len(named) > 1:
            raise AnsibleActionFail(f"files: {entry['path']}: give only one of {', '.join(named)}")
        shipped = {key: value for key, value in entry.items() if key not in (*SOURCES, "secret", "vars")}
        if named:
            data = getattr(self, f"_from_{named[0]}")(entry, task_vars)
            key = "secret_base64" if entry.get("secret") else "content_base64"
            shipped[key] = base64.b64encode(data).decode("ascii")
        return shipped

    def _from_content(self, entry: Mapping[str, Any], task_vars: dict[str, Any]) -> bytes:
        return bytes(to_bytes(entry["content"], errors="surrogate_or_strict"))

    def _from_src(self, entry: Mapping[str, Any], task_vars: dict[str, Any]) -> bytes:
        return Path(self._find_needle("files", entry["src"])).read_bytes()

    def _from_template(self, entry: Mapping[str, Any], task_vars: dict[str, Any]) -> bytes:
        source = self._find_needle("templates", entry["template"])
        roots = [*task_vars.get("ansible_search_path", []), self._loader.get_basedir()]
        search = [path for root in roots for path in (os.path.join(root, "templates"), root)]  # noqa: PTH118
        variables = task_vars | generate_ansible_template_vars(
            path=entry["template"], fullpath=source, dest_path=entry["path"]
        )
        # An entry may bring variables of its own, so that one template serves a list of things.
        variables = variables | dict(entry.get("vars") or {})
        templar = self._templar.copy_with_new_env(searchpath=search, available_variables=variables)
        source_text = trust_as_template(self._loader.get_text_file_contents(source))
        rendered = templar.template(source_text, escape_backslashes=False, overrides={"trim_blocks": True})
        text = "" if rendered is None else rendered
        return bytes(to_bytes(text, errors="surrogate_or_strict", nonstring="simplerepr"))
