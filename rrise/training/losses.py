"""Losses of a softmax against a soft target: means over the batch, natural logarithms, 0·log 0 = 0."""

from __future__ import annotations

import math

import torch


def soft_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of -Σ_k p_k log q_k, q = softmax(logits).

    Its gradient by the logits, q - p, is linear in p: class frequencies give it unbiased, of however few
    draws they are.

    Parameters
    ----------
    logits : float[N, K]
    target : float[N, K]
        Rows p, each summing to 1.
    """
    return -(target * torch.log_softmax(logits, 1)).sum(1).mean()


def jensen_shannon(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of ½KL(p‖m) + ½KL(q‖m), q = softmax(logits), m = (p + q)/2; between 0 and log 2.

    Finite, with finite gradients, wherever p or q vanish. Its derivative by q_k, g_k = ½ log(q_k/m_k), is convex in
    p_k, so frequencies of n draws bias it upwards, by p_k(1 - p_k)/(4n(p_k + q_k)²) to first order in 1/n.

    Parameters
    ----------
    logits : float[N, K]
    target : float[N, K]
        Rows p, each summing to 1; no gradient is taken by it.

    References
    ----------
    Lin, J. (1991). Divergence measures based on the Shannon entropy. IEEE Trans. Inf. Theory 37(1), eq. 4.1.
    """
    log_q = torch.log_softmax(logits, 1)
    # logaddexp is finite where p = 0 and q underflows, which log((p + q)/2) is not.
    log_m = torch.logaddexp(target.log(), log_q) - math.log(2)
    from_target = torch.xlogy(target, target) - target * log_m
    from_softmax = log_q.exp() * (log_q - log_m)
    return 0.5 * (from_target + from_softmax).sum(1).mean()
