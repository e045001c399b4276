"""The name of a sample: it says all that it takes to make the sample again, so nobody has to remember it.

BUNDLE~PLAN~SEED, then ~CATEGORY, ~GUIDANCE, ~TEXT and ~compiled where it has them (empty before one that it has),
with the first twelve digits of the bundle's SHA-256 and "-" between the words. The last is of samples by a
network that was compiled (serve.compile), whose last digits are others. All characters are unreserved in addresses
(RFC 3986, 2.3); letters beyond ASCII are written as an address has them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from raydiance.serving.problems import NotFoundError
from raydiance.serving.schema import (
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_TEXT,
    SampleDrawing,
    SampleInfo,
    SampleRequest,
)

__all__ = ["DIGITS", "SampleId"]

DIGITS = 12
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
GUIDANCE = r"[0-9]{1,2}[.][0-9]{1,15}"
TEXT = r"[^\W_]+(?:-[^\W_]+)*"
COMPILED = "compiled"
PATTERN = re.compile(
    rf"([0-9a-f]{{{DIGITS}}})~({NAME})~([0-9]{{1,19}})(?:~({NAME})?(?:~({GUIDANCE})?(?:~({TEXT})?(?:~({COMPILED}))?)?)?)?"
)


@dataclass(frozen=True)
class SampleId:
    """Which sample: of which bundle, with which plan and seed, and what was to be made."""

    bundle: str
    plan: str
    seed: int
    category: str | None = None
    guidance: float = 1.0
    text: str | None = None
    compiled: bool = False

    def __str__(self) -> str:
        guidance = "" if self.guidance == 1.0 else str(self.guidance)
        text = quote((self.text or "").replace(" ", "-"))
        parts = [self.bundle, self.plan, str(self.seed), self.category or "", guidance, text]
        parts += [COMPILED] if self.compiled else []
        return "~".join(parts).rstrip("~")

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "SampleId":
        """The name of the sample of a stamp."""
        guidance = said.get("guidance", 1.0)
        return cls(
            said["sha256"][:DIGITS],
            said["plan"],
            said["seed"],
            said["category"],
            guidance,
            said.get("text"),
            COMPILED in said,
        )

    @classmethod
    def parse(cls, text: str) -> "SampleId":
        """The parts of a name. Raises NotFoundError for what is none."""
        found = PATTERN.fullmatch(unquote(text))
        if (
            found is None
            or int(found[3]) > MAX_SEED
            or not 1 <= float(found[5] or 1.0) <= MAX_GUIDANCE
            or (found[5] and not (found[4] or found[6]))
            or len(found[6] or "") > MAX_TEXT
        ):
            raise NotFoundError(
                f"sample {text[:100]!r}: a sample is named "
                "BUNDLE~PLAN~SEED[~CATEGORY[~GUIDANCE[~TEXT[~compiled]]]]"
            )
        words = found[6] and found[6].replace("-", " ")
        guidance, compiled = float(found[5] or 1.0), found[7] is not None
        return cls(found[1], found[2], int(found[3]), found[4], guidance, words, compiled)

    def request(self, drawing: SampleDrawing, *, compiled: bool) -> SampleRequest:
        """What to ask for to have the sample drawn, where networks are compiled or not.

        Raises NotFoundError for a sample of the other kind.
        """
        if self.compiled != compiled:
            raise NotFoundError(
                f"sample {self}: its network was {'' if self.compiled else 'not '}compiled, here it is"
                f"{'' if compiled else ' not'}, and so the last digits are others; ask an endpoint with "
                f"serve.compile={'true' if self.compiled else 'false'}"
            )
        return SampleRequest(
            model=self.bundle,
            plan=self.plan,
            seed=self.seed,
            category=self.category,
            guidance=self.guidance,
            text=self.text,
            **drawing.model_dump(exclude={"format"}),
        )

    def info(self, bundle: str) -> SampleInfo:
        """What is told of the sample of the bundle with this key."""
        url = f"/v1/samples/{self}"
        return SampleInfo(
            id=str(self),
            seed=self.seed,
            plan=self.plan,
            category=self.category,
            text=self.text,
            guidance=self.guidance,
            bundle=bundle,
            url=url,
            lineage=f"{url}/lineage",
        )
