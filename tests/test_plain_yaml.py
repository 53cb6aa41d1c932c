"""YAML of other programs gives plain values; nothing runs, and memory stays small."""

import pytest

from aujax import plain_yaml
from aujax.errors import UserError


def test_foreign_tags_give_plain_values_and_run_nothing(tmp_path):
    owned = tmp_path / "owned"
    text = f"a: !!python/object/apply:os.system ['touch {owned}']\nb: !munch.Munch {{c: 1}}\nd: !x.Y z\n"
    parsed = plain_yaml.parse(text)
    assert (parsed["b.c"], parsed["d"]) == (1, "z")
    assert not owned.exists()


@pytest.mark.parametrize("tag", ["timestamp", "binary", "set", "omap", "pairs", "merge"])
def test_a_tag_of_yaml_without_a_plain_value_is_ignored(tag):
    assert plain_yaml.parse(f"a: !!{tag} x") == {"a": "x"}


def test_aliases_that_multiply_do_not_use_memory():
    # Nine levels of ten aliases: ten to the ninth values when written out.
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    merged = [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    parsed = plain_yaml.parse("\n".join(["a0: &a0 [x]", *levels, "b0: &b0 {x: 1}", *merged]))
    assert max(len(str(value)) for value in parsed.values()) < 1000


def test_a_very_long_whole_number_is_cut():
    assert len(plain_yaml.parse(f"a: {'9' * 4000}")["a"]) < 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [", "expected YAML, got something else"),
        ("a: *b", "expected YAML, got something else"),
        ("a: &a {b: *a}", "expected YAML, got something else"),
        ("a: !!int x", "expected YAML, got something else"),
        ("a: !!int " + "9" * 5000, "expected YAML, got something else"),
        ("a: !!bool x", "expected YAML, got something else"),
        ("[" * 5000, "expected YAML, got something else"),
        ("\0", "expected YAML, got something else"),
        ("- 1", "expected values by name, got something else"),
        ("", "expected values by name, got something else"),
        ("a: " + "b" * 2**20, "expected YAML of at most 1048576 characters, got 1048579"),
    ],
)
def test_a_text_that_is_no_mapping_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        plain_yaml.parse(text)
