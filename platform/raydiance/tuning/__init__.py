"""The search for sampling plans: what is tried, how it is judged, the front of quality against cost."""

from raydiance.tuning.tune import tune

__all__ = ["tune"]
