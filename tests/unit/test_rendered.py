"""The lookup `rendered` gives what Ansible's own gives, and leaves the variables alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar, trust_as_template

LOOKUPS = Path(__file__).parents[2] / "roles" / "common" / "lookup_plugins"
TEMPLATE = """\
# {{ about }}
{% for name in names %}
{% set about = name %}
{{ about }}: {{ nested.key }}
{% endfor %}
{% include 'part.j2' %}
end
"""


def lookup(plugin: str, term: str, variables: dict[str, Any]) -> list[str]:
    lookup_loader.add_directory(str(LOOKUPS))
    loader = DataLoader()
    found = lookup_loader.get(plugin, loader=loader, templar=Templar(loader=loader, variables=variables))
    texts: list[str] = found.run([term], variables)
    return texts


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, Any]:
    """Those of a role with two templates, one of which has the other."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "whole.j2").write_text(TEMPLATE)
    (tmp_path / "templates" / "part.j2").write_text("{{ template_path | length > 0 }}\n")
    return {
        "ansible_search_path": [str(tmp_path)],
        "about": trust_as_template("{{ names | join('-') }}"),
        "names": ["a", "b"],
        "nested": {"key": trust_as_template("{{ names[0] }}\n")},
    }


def test_a_text_is_as_ansibles_own(variables: dict[str, Any]) -> None:
    [text] = lookup("rendered", "whole.j2", variables)
    assert text == "# a-b\na: a\n\nb: a\n\nTrueend\n"
    assert [text] == lookup("template", "whole.j2", variables)


def test_nothing_is_copied_and_nothing_changed(variables: dict[str, Any]) -> None:
    class Heavy(dict[str, Any]):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("it was copied")

    names = set(variables)
    variables["heavy"] = Heavy()
    lookup("rendered", "whole.j2", variables)
    assert set(variables) == names | {"heavy"}
    with pytest.raises(AssertionError, match="copied"):
        lookup("template", "whole.j2", variables)


def test_a_template_that_is_not_there_is_named(variables: dict[str, Any]) -> None:
    with pytest.raises(AnsibleLookupError, match=r"there is no template 'other\.j2'"):
        lookup("rendered", "other.j2", variables)


def test_options_of_ansibles_own_are_refused(variables: dict[str, Any]) -> None:
    found = lookup_loader.get("rendered", loader=DataLoader(), templar=None)
    with pytest.raises(AnsibleLookupError, match="trim_blocks"):
        found.run(["whole.j2"], variables, trim_blocks=False)
