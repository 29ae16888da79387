"""What an auditor knows at a moment, as plain numbers, a line and Prometheus' text format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from rrise.audit.record import Record

_COUNTERS = {
    "served": "Inputs certified.",
    "audited": "Inputs whose certificate was audited, abstentions among them.",
    "abstained": "Audited inputs that were abstained on: no claim, no cost, not refuted.",
    "refuted": "Audited certificates that Monte Carlo refuted.",
    "dropped": "Chosen inputs that were not audited: the queue was full, or the auditor closed.",
    "failed": "Chosen inputs whose audit raised an error.",
    "evaluations": "Noisy evaluations of the base classifier that the audit spent.",
}
_GAUGES = {
    "promised_rate": "Largest rate of refutation that the guarantee allows, the bundle's promise + b.",
    "e_value": "Evidence against the guarantee now.",
    "largest_e_value": "Largest evidence against the guarantee so far; the alarm is at 1/alpha.",
    "alarm": "Whether the guarantee is refuted: 1 from the first time on.",
    "refuted_rate_low": "Lower end of the interval of the rate of refutation.",
    "refuted_rate_high": "Upper end of the interval of the rate of refutation.",
    "miscoverage_at_least": "Lower bound on the share of inputs with a wrong certificate.",
    "drift_e_value": "Evidence now that inputs changed.",
    "largest_drift_e_value": "Largest evidence so far that inputs changed; the alarm is at 1/alpha.",
    "drift_alarm": "Whether inputs are found to have changed: 1 from the first time on.",
    "queued": "Inputs that wait for their audit.",
    "broken": "Whether the latest audit or save failed.",
}


@dataclass(frozen=True)
class AuditStatus:
    """What an auditor knows; the fields are explained by the metrics of the same names.

    Parameters
    ----------
    bundle_sha256, error : str
        ``error`` says why the latest audit or save failed, in one line; "" if it did not.
    served, audited, abstained, refuted, dropped, failed, evaluations, queued : int
    promised_rate, alpha, e_value, largest_e_value, refuted_rate_low, refuted_rate_high : float
    miscoverage_at_least, drift_e_value, largest_drift_e_value : float
    """

    bundle_sha256: str
    served: int
    audited: int
    abstained: int
    refuted: int
    dropped: int
    failed: int
    evaluations: int
    queued: int
    promised_rate: float
    alpha: float
    e_value: float
    largest_e_value: float
    refuted_rate_low: float
    refuted_rate_high: float
    miscoverage_at_least: float
    drift_e_value: float
    largest_drift_e_value: float
    error: str

    @classmethod
    def of(cls, record: Record, *, b: float, alpha: float, queued: int, error: str) -> AuditStatus:
        """Return what a record says, with intervals at level 1 - alpha."""
        evidence, drift = record.evidence, record.drift
        low, high = evidence.interval(alpha)
        return cls(
            record.bundle_sha256,
            record.served,
            evidence.audits,
            record.abstained,
            evidence.refuted,
            record.dropped,
            record.failed,
            record.evaluations,
            queued,
            evidence.m,
            alpha,
            evidence.value,
            evidence.largest,
            low,
            high,
            max(0.0, low - b),
            drift.value,
            drift.largest,
            error,
        )

    @property
    def alarm(self) -> bool:
        """Whether the guarantee is refuted; false with probability at most alpha, ever."""
        return self.largest_e_value >= 1 / self.alpha

    @property
    def drift_alarm(self) -> bool:
        """Whether inputs are found to have changed; false with probability at most alpha, ever."""
        return self.largest_drift_e_value >= 1 / self.alpha

    @property
    def broken(self) -> bool:
        """Whether the latest audit or save failed."""
        return bool(self.error)

    @property
    def line(self) -> str:
        """The status in one line."""
        verdict = "ALARM: certificates are wrong more often than promised" if self.alarm else "no alarm"
        drift = "ALARM: inputs changed" if self.drift_alarm else "no alarm"
        return (
            f"{self.audited} of {self.served} audited: {self.refuted} refuted, {self.abstained} abstained on, "
            f"{self.dropped} dropped, {self.failed} failed; rate of refutation {100 * self.refuted_rate_low:.3g}% to "
            f"{100 * self.refuted_rate_high:.3g}%, promised at most {100 * self.promised_rate:.3g}%; largest e-value "
            f"{self.largest_e_value:.3g} ({verdict}), of drift {self.largest_drift_e_value:.3g} ({drift})"
        )

    def metrics(self) -> str:
        """Return the status in Prometheus' text exposition format.

        Raises
        ------
        ImportError
            If prometheus_client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, generate_latest
        except ImportError:
            raise ImportError(
                "audit: expected the package prometheus_client, got none. pip install rrise[audit]"
            ) from None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry).decode("utf-8")

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as a collector of prometheus_client does."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        yield InfoMetricFamily("rrise_audit_bundle", "The bundle that is audited.", {"sha256": self.bundle_sha256})
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"rrise_audit_{name}", text, value=getattr(self, name))
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"rrise_audit_{name}", text, value=float(getattr(self, name)))
