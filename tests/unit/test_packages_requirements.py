"""Equal sets of requirements have one name; what an installer could misread has none."""

from __future__ import annotations

import pytest
from sandbox_rpc.errors import InvalidParameter
from scheduler_svc.packages.requirements import canonical, key_of


def test_equal_sets_come_out_equal() -> None:
    one = canonical(["Foo.Bar", "b>=1,<2", "a [y,x]"])
    other = canonical(["a[x,y]", "foo-bar", "b <2, >=1", "foo_bar"])
    assert one == other == ("a[x,y]", "b<2,>=1", "foo-bar")
    assert key_of(one) == key_of(other)


def test_different_sets_have_different_names() -> None:
    sets = ([], ["a"], ["a", "b"], ["a==1"], ["a[x]"], ['a; python_version > "3"'], ["ab"])
    keys = {key_of(canonical(each)) for each in sets}
    assert len(keys) == len(sets)
    assert all(len(key) == 32 and key.isalnum() for key in keys)


@pytest.mark.parametrize(
    "text", ["-r x", "--pre", "-", ".", "/x", "a b", "", "a @ file:///x", "git+https://x/y"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="Field 'packages' must"):
        canonical([text])
