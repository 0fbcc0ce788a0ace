"""Names that become folders are one path component, refused with their key otherwise."""

import pytest

from jaxpt.errors import JaxptError
from jaxpt.files.names import path_component

BAD = [
    "",
    ".",
    "..",
    "../victim",
    "a/b",
    "/a",
    "a\\b",
    "a\0b",
    "a\nb",
    ".hidden",
    "-rf",
    " a",
    "a ",
    "x" * 201,
    "steps",
]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_leads_elsewhere_is_refused_with_its_key(name):
    with pytest.raises(JaxptError, match=r"^config\.steps\[0\]\.name: the name .*; give another name") as message:
        path_component(name, "config.steps[0].name", ("steps",))
    assert "\n" not in str(message.value)


@pytest.mark.parametrize("name", ["clean", "web.en", "a-b_c", "..a"[2:], "Ünïcode", "two words", "a..b"])
def test_usual_names_pass(name):
    assert path_component(name, "config.sources") == name
