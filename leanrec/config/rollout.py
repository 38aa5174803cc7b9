"""How a candidate becomes stable, and what sends it back."""

from __future__ import annotations

from pydantic import Field, field_validator

from leanrec.config.section import Section


class RolloutSettings(Section):
    """The stages of a rollout, and the bounds that a candidate must keep in each.

    The bounds compare the candidate with the stable version over the same time.
    """

    after_publish: bool = False
    """Whether a run of the pipeline rolls out the candidate that it published; else it waits."""
    gateways: tuple[str, ...] = ()
    """URLs of the gateways, whose /metrics are the evidence; none: the one of the section `gateway`. An http
    URL stands for every address of its host, as that of a headless Service."""
    load_s: float = Field(default=120, gt=0)
    """Seconds that a Triton gets to load the candidate."""
    shadow_percent: float = Field(default=20, ge=0, le=100)
    """Share of requests replayed to the candidate before it answers anybody; 0 leaves the stage out."""
    canary_percents: tuple[float, ...] = (1, 10, 50)
    """Shares of users that the candidate answers, stage after stage; after the last it is stable."""
    stage_s: float = Field(default=300, ge=0)
    """Seconds that a stage lasts at least."""
    stage_timeout_s: float = Field(default=86_400, gt=0)
    """Seconds after which a stage without enough requests ends the rollout: silence is no proof of health."""
    abandoned_after_s: float | None = Field(default=900, ge=0)
    """Seconds after which a run withdraws a candidate whose controller is gone; null leaves it, and puts the
    run off. One that was sent to nobody yet is left too, unless `after_publish`: it waits for the command."""
    observe_every_s: float = Field(default=5, gt=0)
    """Seconds between two looks at the gateways."""
    min_requests: int = Field(default=500, ge=1)
    """Recommendations that the candidate's model must have answered in a stage before it passes it. Where
    both versions answered as many rankings, /v1/rank is judged at the end of the stage, too."""
    max_error_rate_increase: float = Field(default=0.005, ge=0)
    """How much larger the share of requests that failed may be than the stable version's."""
    max_empty_rate_increase: float = Field(default=0.005, ge=0)
    """How much larger the share of answers without an item may be than the stable version's."""
    max_p99_ratio: float = Field(default=1.5, gt=0)
    """The candidate's 99th percentile of latency over the stable version's."""
    max_score_psi: float = Field(default=0.5, gt=0)
    """Population stability index of the first item's score, candidate against stable, in the shadow stage."""
    min_shadow_overlap: float = Field(default=0.2, ge=0, le=1)
    """Share of ten items that both versions name, mean over the requests replayed."""
    click_effect: float = Field(default=0.02, gt=0)
    """Difference of click-through rates that the sequential test expects, in absolute terms."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance that the sequential test sends back, in one stage, a candidate which loses no click."""
    click_design_effect: float = Field(default=20, ge=1)
    """How many times as much a click-through rate varies as if impressions were independent, for users
    differ; what online.json says of the stable release takes its place where it is more. About 1 + (m - 1) r
    for m impressions a user whose clicks correlate by r (Kish 1965): 20 is m = 100, r = 0.2."""

    @field_validator("canary_percents")
    @classmethod
    def _shares_rise(cls, percents: tuple[float, ...]) -> tuple[float, ...]:
        if list(percents) != sorted(set(percents)) or not all(0 < percent <= 100 for percent in percents):
            raise ValueError("the shares must rise from above 0 to at most 100, such as [1, 10, 50]")
        return percents
