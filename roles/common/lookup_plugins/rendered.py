"""A template's text, as `ansible.builtin.template` gives it, without a copy of all variables.

Ansible's own lookup copies every variable there is, with all that is in it, at each call, which takes the longer the
more virtual platforms there are. Templates read variables and change none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.template import generate_ansible_template_vars, trust_as_template

DOCUMENTATION = r"""
name: rendered
short_description: The text of templates
description:
  - Looks for templates where the action C(template) does, and renders them with all variables that the task has.
    Takes no options.
options:
  _terms: {description: Templates., required: true}
"""

RETURN = r"""
_raw: {description: A text for each template., type: list, elements: str}
"""


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: Sequence[str], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Give the texts; raises AnsibleLookupError where there is no such template."""
        if kwargs:
            raise AnsibleLookupError(f"rendered takes no options, and was given {', '.join(kwargs)}")
        return [self._rendered(term, variables or {}) for term in terms]

    def _rendered(self, term: str, variables: Mapping[str, Any]) -> str:
        source = self.find_file_in_search_path(variables, "templates", term, ignore_missing=True)
        if not source:
            raise AnsibleLookupError(f"there is no template {term!r}")
        roots = [Path(root) for root in variables.get("ansible_search_path", [])]
        search = [str(Path(source).parent), *(str(path) for root in roots for path in (root / "templates", root))]
        own = generate_ansible_template_vars(path=term, fullpath=source)
        templar = self._templar.copy_with_new_env(searchpath=search, available_variables=dict(variables) | own)
        text = trust_as_template(self._loader.get_text_file_contents(source))
        return str(templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True}))
