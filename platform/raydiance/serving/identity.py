"""The name of a sample: it says all that it takes to make the sample again, so nobody has to remember it.

BUNDLE~PLAN~SEED, then ~CATEGORY and ~GUIDANCE where it has them, with the first twelve digits of the bundle's
SHA-256. All characters are unreserved in addresses (RFC 3986, 2.3).
"""

import re
from dataclasses import dataclass

from raydiance.serving.problems import NotFoundError
from raydiance.serving.schema import MAX_GUIDANCE, MAX_SEED, SampleInfo

__all__ = ["DIGITS", "SampleId"]

DIGITS = 12
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
PATTERN = re.compile(
    rf"([0-9a-f]{{{DIGITS}}})~({NAME})~([0-9]{{1,19}})(?:~({NAME})(?:~([0-9]{{1,2}}[.][0-9]{{1,15}}))?)?",
    re.ASCII,
)


@dataclass(frozen=True)
class SampleId:
    """Which sample: of which bundle, with which plan, seed and category."""

    bundle: str
    plan: str
    seed: int
    category: str | None = None
    guidance: float = 1.0

    def __str__(self) -> str:
        parts = [self.bundle, self.plan, str(self.seed), *([self.category] if self.category else [])]
        parts += [str(self.guidance)] if self.guidance != 1.0 else []
        return "~".join(parts)

    @classmethod
    def of(
        cls, bundle_sha256: str, plan: str, seed: int, category: str | None, guidance: float = 1.0
    ) -> "SampleId":
        """The name of a sample of a bundle."""
        return cls(bundle_sha256[:DIGITS], plan, seed, category, guidance)

    @classmethod
    def parse(cls, text: str) -> "SampleId":
        """The parts of a name. Raises NotFoundError for what is none."""
        found = PATTERN.fullmatch(text)
        if found is None or int(found[3]) > MAX_SEED or not 1 <= float(found[5] or 1.0) <= MAX_GUIDANCE:
            raise NotFoundError(
                f"sample {text[:100]!r}: a sample is named BUNDLE~PLAN~SEED[~CATEGORY[~GUIDANCE]]"
            )
        return cls(found[1], found[2], int(found[3]), found[4], float(found[5] or 1.0))

    def info(self, bundle: str) -> SampleInfo:
        """What is told of the sample of the bundle with this key."""
        url = f"/v1/samples/{self}"
        return SampleInfo(
            id=str(self),
            seed=self.seed,
            plan=self.plan,
            category=self.category,
            bundle=bundle,
            url=url,
            lineage=f"{url}/lineage",
        )
