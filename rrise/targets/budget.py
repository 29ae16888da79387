"""A number of draws that adapts: start small, go on only where the class shares of an image are still uncertain.

For training targets only. A bound for a certificate is made for a number of draws fixed beforehand, so calibration and
reference counts never stop early.

The rule looks at the counts after first, 2·first, 4·first, ... draws and stops once there are 2n·√(p(1 − p)) of them, p
the share of the class for which that is most: n where a class has half of the draws, n/5 where one has 99%. Draws in
proportion to the standard deviation of one draw make the summed variance of two-class targets least for the draws spent
(Neyman 1934, stratified sampling); with more classes the most uncertain one speaks for all.

Whether draw t+1 is made depends on draws 1..t alone, so the number of draws τ is a stopping time, and E[counts] =
p E[τ] (Wald's identity): a loss in which every *draw* weighs the same keeps p as its exact, unbiased optimum whatever
the rule. The *share* counts/τ of one image is biased, since an image whose first draws agree stops sooner: by at most
0.0020 (at p = 0.96) of two classes for n = 1,000, which ``tests/test_budget.py`` computes exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rrise.targets.settings import SampleConfig, batch_geometry


@dataclass(frozen=True)
class Budget:
    """When to stop drawing.

    Parameters
    ----------
    first : int
        Draws before the first look; whole forward passes.
    n : int
        Draws at the last.
    """

    first: int
    n: int

    @classmethod
    def of(cls, config: SampleConfig) -> Budget | None:
        """Return the budget of these settings, or None where every image gets all n draws."""
        if not config.first_n:
            return None
        batch, batches = batch_geometry(config.first_n, config.batch_size)
        return cls(min(batch * batches, config.n), config.n)

    def looks(self) -> tuple[int, ...]:
        """Return the numbers of draws after which an image may stop, in order; the last is n."""
        found, look = [], self.first
        while look < self.n:
            found.append(look)
            look *= 2
        return (*found, self.n)

    def settled(self, counts: npt.NDArray[Any]) -> bool:
        """Return whether an image has the draws that its class shares call for, after one of the looks.

        Parameters
        ----------
        counts : int[K]
            Draws of each class so far. One draw for and one against each class is added before its share is taken, so
            that a share of 0 or 1 is not taken for certain.
        """
        drawn = int(counts.sum())
        share = (counts + 1.0) / (drawn + 2.0)
        return drawn >= 2 * self.n * float(np.sqrt(share * (1.0 - share)).max())
