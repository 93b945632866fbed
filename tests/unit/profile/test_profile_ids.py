"""Ids of profiles."""

import pytest

from openshell.providers.profile.ids import ProfileIdError, is_canonical_id, normalize_id


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("alex-api", "alex-api"),
        (" Alex-API ", "alex-api"),
        ("A1", "a1"),
        ("7", "7"),
        ("claude", "claude"),
        ("", ""),
        (" \t\n", ""),
    ],
)
def test_ids_that_can_be_normalised(text, normal):
    assert normalize_id(text) == normal
    assert is_canonical_id(text) == (text == normal != "")


@pytest.mark.parametrize(
    "text",
    ["alex_api", "-a", "a-", "a--b", "a b", "a/b", "../a", "é", "\N{KELVIN SIGN}", "a\nb", "a\0"],
)
def test_ids_that_cannot(text):
    assert not is_canonical_id(text)
    with pytest.raises(ProfileIdError, match="lowercase kebab-case") as caught:
        normalize_id(text)
    assert str(caught.value).isprintable()
