"""What a calibration is: a curve, and the facts that its guarantee rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rrise.calibration.bins import Bin
from rrise.calibration.statements import describe
from rrise.promise import promise, rounded_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Calibration:
    """A curve from q to a lower bound of the smoothed classifier's probability, and what it guarantees.

    Parameters
    ----------
    curve : str
        Family: "offset", "scaled" or "binned".
    guarantee : str
        "marginal", "training-conditional" or "certified".
    beta, gamma, eta : float
        Error probabilities: of each calibration bound, of the curve, of the calibration draw (unless marginal).
    n : int
        Noisy draws behind each calibration bound.
    images : int
        Calibration inputs, M.
    rank : int
        Which of the M scores, in rising order, was taken; of a binned curve the sum of the bins' ranks; of the
        guarantee "certified" the inputs that are not certified wrongly.
    t : float
        That score; how far the family was lowered. Of a binned curve the largest of its bins.
    knots_q, knots_p : float64[J]
        The curve, piecewise linear; read-only.
    certified : int
        Calibration inputs that the curve certifies.
    bins : tuple of Bin
        Of a binned curve; otherwise none.
    priors : tuple of float
        Class frequencies in service that the inputs were weighted for; none: as they came.
    effective : float
        Effective number of calibration inputs under those weights.
    shared_draws : bool
        Whether q was made from some of the draws that the bounds count, as with more passes.
    """

    curve: str
    guarantee: str
    beta: float
    gamma: float
    eta: float
    n: int
    images: int
    rank: int
    t: float
    knots_q: NDArray[np.float64]
    knots_p: NDArray[np.float64]
    certified: int
    bins: tuple[Bin, ...] = ()
    priors: tuple[float, ...] = ()
    effective: float = 0.0
    shared_draws: bool = False

    @property
    def error(self) -> float:
        """Share of wrong bounds that the guarantee allows, :func:`rrise.promise.promise` rounded up."""
        return rounded_up(promise(self.beta, self.gamma, shared_draws=self.shared_draws))

    def statement(self) -> str:
        """Return what is guaranteed, about what, and what is not, in one line with this calibration's numbers."""
        return describe(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain strings, numbers and lists, ready for JSON; without those that do not apply."""
        plain: dict[str, Any] = {
            "curve": self.curve,
            "guarantee": self.guarantee,
            "beta": self.beta,
            "gamma": self.gamma,
            "eta": self.eta,
            "n": self.n,
            "images": self.images,
            "rank": self.rank,
            "t": self.t,
            "knots_q": self.knots_q.tolist(),
            "knots_p": self.knots_p.tolist(),
            "certified": self.certified,
        }
        if self.bins:
            plain["bins"] = [asdict(b) for b in self.bins]
        if self.priors:
            plain |= {"priors": list(self.priors), "effective": self.effective}
        if self.shared_draws:
            plain["shared_draws"] = True
        return plain
