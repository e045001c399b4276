"""from_plain reads exactly what to_plain writes."""

from collections.abc import Mapping
from typing import Any, Literal

import pytest

from raydiance.spec import from_plain, spec, to_plain


@spec
class Inner:
    size: int = 3
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size must be at least 0, got {self.size}")


@spec
class Outer:
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (1, "x")
    rate: float = 1.0
    name: str | None = None
    scores: Mapping[str, float]
    anything: Any = None


def test_a_spec_comes_back_equal() -> None:
    value = Outer(
        inner=Inner(kind="b"),
        many=(Inner(size=1), Inner(size=2)),
        pair=(2, "y"),
        name="n",
        scores={"psnr": 1.5},
        anything={"free": [1, "x"]},
    )
    assert from_plain(Outer, to_plain(value)) == value


def test_whole_numbers_are_good_floats_but_not_the_other_way_round() -> None:
    assert from_plain(Outer, {"scores": {}, "rate": 2}).rate == 2.0
    with pytest.raises(ValueError, match=r"spec\.inner\.size.*int.*2\.5"):
        from_plain(Outer, {"scores": {}, "inner": {"size": 2.5}})


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"scores": {}, "oops": 1}, r"spec\.oops: Outer has no such field"),
        ({}, "scores"),
        ({"scores": {}, "inner": {"kind": "c"}}, r"spec\.inner\.kind"),
        ({"scores": {}, "inner": {"size": -1}}, r"spec\.inner: size must be at least 0"),
        ({"scores": {}, "inner": {"size": True}}, r"spec\.inner\.size"),
        ({"scores": {}, "many": [{"size": "x"}]}, r"spec\.many\.0\.size"),
        ({"scores": {}, "pair": [1]}, r"spec\.pair"),
        ({"scores": {"a": "b"}}, r"spec\.scores\.a"),
        ({"scores": {}, "name": 3}, r"spec\.name"),
        ([], "need an object"),
    ],
)
def test_what_is_not_a_spec_is_refused_by_its_place(plain: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_plain(Outer, plain)
