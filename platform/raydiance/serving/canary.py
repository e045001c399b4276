"""A bundle on trial: it gets a share of the requests, and loses it when more of them fail than elsewhere."""

import hashlib
import logging
from dataclasses import dataclass

from raydiance.serving.problems import NoSurfaceError, OverloadError, ServingError
from raydiance.serving.schema import Format, SampleRequest

__all__ = ["Canary", "speaks_against"]

FEWEST = 20  # a rate is taken over at least so many, so that one failure alone decides nothing

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """Requests that one side answered or failed."""

    asked: int = 0
    failed: int = 0


class Canary:
    """Which requests go to the bundle on trial, and how it does beside the other one.

    share: of the requests. worse: what its figures say against it; it gets no request then. tolerance: how much
    higher than the other's its rate of failures may be.
    """

    def __init__(self, name: str, share: float, tolerance: float, worse: str = "") -> None:
        self.name, self._share, self._tolerance = name, share, tolerance
        self.mine, self.other = Tally(), Tally()
        self.returned: str = worse and f"its figures are worse: {worse}"
        if self.returned:
            logger.warning("%s gets no requests: %s", name, self.returned)

    @property
    def share(self) -> float:
        """The share of the requests that it gets now."""
        return 0.0 if self.returned else self._share

    def takes(self, request: SampleRequest, form: Format) -> bool:
        """Whether a request goes to it: always the same for the same request, so that one asked again gets
        the same bytes.
        """
        drawn = hashlib.sha256(f"{form}{request.model_dump_json()}".encode()).digest()
        return int.from_bytes(drawn[:8]) < self.share * 2**64

    def count(self, error: ServingError | None, *, mine: bool) -> None:
        """Add the outcome of a request; too many failures end the trial."""
        tally = self.mine if mine else self.other
        tally.asked += 1
        tally.failed += error is not None and speaks_against(error)
        allowed = self._tolerance + self.other.failed / max(self.other.asked, FEWEST)
        if not self.returned and self.mine.failed > allowed * max(self.mine.asked, FEWEST):
            self.returned = f"{self.mine.failed} of {self.mine.asked} requests failed, the last: {error}"
            logger.warning("%s gets no more requests: %s", self.name, self.returned)


def speaks_against(error: ServingError) -> bool:
    """Whether an error is the bundle's: what was asked for was possible and allowed."""
    return isinstance(error, NoSurfaceError) or (error.status >= 500 and not isinstance(error, OverloadError))
