"""Attacks on linear networks, where the nearest flip and the smoothed classifier's boundary have a closed form."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrise.attack.ascent import Ascent, margin, smoothed
from rrise.attack.attacker import Attacker
from rrise.attack.ball import project, to_grid
from rrise.attack.smallest import grid_distance, smallest_flips

RNG = np.random.default_rng(7)
SHAPE, COUNT, SIGMA = (1, 8, 8), 12, 0.25
MIDDLE = RNG.integers(70, 186, (COUNT, *SHAPE), dtype=np.uint8)  # far from the box's walls
W = RNG.standard_normal((3, 64))
W -= W.mean(axis=1, keepdims=True)
B = np.array([0.0, 0.3, -0.3])


def linear(points: torch.Tensor) -> torch.Tensor:
    return points.flatten(1) @ torch.from_numpy(W.T).float() + torch.from_numpy(B).float()


def two_classes(points: torch.Tensor) -> torch.Tensor:
    return linear(points)[:, :2]


def logits(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0 @ W.T + B


def nearest_flips(images: np.ndarray, classes: int = 3) -> np.ndarray:
    """Distance to the nearest hyperplane on which another class draws level: |margin| / ‖difference of weights‖."""
    z = logits(images)[:, :classes]
    top = z.argmax(1)
    found = np.full(len(images), np.inf)
    for row, label in enumerate(top):
        for other in set(range(classes)) - {label}:
            gap = (z[row, label] - z[row, other]) / np.linalg.norm(W[label] - W[other])
            found[row] = min(found[row], gap)
    return found


def attacker(network: object = linear, images: np.ndarray = MIDDLE, classes: int = 3, **changed: object) -> Attacker:
    settings = {
        "surrogate": network,
        "classifier": network,
        "images": images,
        "labels": logits(images)[:, :classes].argmax(1),
        "sigma": SIGMA,
        "ascent": Ascent(steps=40, step=0.25, restarts=1),
        "targets": 2,
        "draws": 8,
        "batch_size": 40,
        "seed": 0,
        "device": torch.device("cpu"),
    }
    return Attacker(**{**settings, **changed})


balls = st.tuples(st.integers(0, 2**32 - 1), st.floats(0, 3), st.floats(0.01, 2))


@settings(max_examples=25)
@given(balls)
def test_projection_is_the_nearest_point_of_ball_and_box(ball: tuple[int, float, float]) -> None:
    seed, radius, spread = ball
    draw = torch.Generator().manual_seed(seed)
    centres = torch.rand((4, 1, 3, 3), generator=draw)
    points = centres + spread * torch.randn(centres.shape, generator=draw)
    found = project(points, centres, torch.full((4,), radius))
    assert found.min() >= -1e-6
    assert found.max() <= 1 + 1e-6
    assert ((found - centres).flatten(1).norm(dim=1) <= radius + 1e-6).all()
    # p is the nearest point of a convex set to d just if no point y of it lies beyond: (d − p)·(y − p) <= 0.
    for _ in range(5):
        direction = torch.randn(centres.shape, generator=draw)
        inside = centres + radius * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        other = centres + (inside.clamp(0, 1) - centres)
        assert (((points - found) * (other - found)).flatten(1).sum(1) <= 1e-4 * (1 + spread)).all()


def test_a_point_inside_stays_where_it_is() -> None:
    centres = torch.full((1, 1, 2, 2), 0.5)
    points = centres + torch.tensor([[[[0.1, -0.2], [0.0, 0.05]]]])
    assert torch.allclose(project(points, centres, torch.tensor([0.3])), points, atol=1e-7)
    assert not torch.allclose(project(points, centres, torch.tensor([0.2])), points, atol=1e-3)


@given(balls)
def test_grid_points_stay_strictly_in_the_ball_and_in_the_box(ball: tuple[int, float, float]) -> None:
    seed, radius, spread = ball
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (4, 1, 3, 3), dtype=np.uint8)
    centres = torch.from_numpy(images).float() / 255
    points = project(
        centres + spread * torch.from_numpy(rng.standard_normal(images.shape)).float(),
        centres,
        torch.full((4,), radius),
    )
    found = to_grid(points.numpy(), images, np.full(4, radius))
    steps = found.astype(int) - images.astype(int)
    if radius > 0:
        assert all(int((row**2).sum()) < (255 * Fraction(radius)) ** 2 or not row.any() for row in steps)
    else:
        assert not steps.any()
    assert (np.abs(steps - (points.numpy().astype(float) * 255 - images)) <= 1.001).all()  # one step off at most
    assert (grid_distance(found, images) <= radius).all()


def test_rounding_to_the_nearest_step_alone_would_leave_the_ball() -> None:
    """And turning every pixel back loses what the fewest need not: the points end a step from the edge."""
    images = RNG.integers(60, 190, (50, 1, 8, 8), dtype=np.uint8)
    direction = RNG.standard_normal(images.shape)
    direction /= np.sqrt((direction**2).sum((1, 2, 3), keepdims=True))
    points, radii = images / 255 + 0.2 * direction, np.full(50, 0.2)
    plain = grid_distance(np.rint(points * 255).astype(np.uint8), images)
    found = grid_distance(to_grid(points, images, radii), images)
    towards = np.sqrt((np.trunc(points * 255 - images) ** 2).sum((1, 2, 3))) / 255
    assert (plain > 0.2).sum() > 10
    assert (found <= 0.2).all()
    assert found.min() > 0.2 - 1 / 255 > towards.mean() + 0.005


def test_ascent_reaches_the_best_point_of_the_ball() -> None:
    labels = torch.from_numpy(logits(MIDDLE).argmax(1))
    centres = torch.from_numpy(MIDDLE).float() / 255
    objective, radii = margin(two_classes, labels.clamp(max=1)), torch.full((COUNT,), 0.3)
    before = objective(centres)
    found = Ascent(40, 0.25, 1).run([objective], objective, centres, radii, torch.Generator().manual_seed(0))
    best = before + 0.3 * float(np.linalg.norm(W[0] - W[1]))
    assert torch.allclose(objective(found), best, rtol=1e-3)
    weak = Ascent(1, 0.1, 1).run([objective], objective, centres, radii, torch.Generator().manual_seed(0))
    assert not torch.allclose(objective(weak), best, rtol=1e-2)  # the comparison can fail


def test_restarts_never_do_worse() -> None:
    labels = torch.from_numpy(logits(MIDDLE).argmax(1))
    centres, radii = torch.from_numpy(MIDDLE).float() / 255, torch.full((COUNT,), 0.5)
    objective = margin(lambda points: torch.sin(9 * linear(points)), labels)
    one, many = (
        objective(Ascent(5, 0.2, starts).run([objective], objective, centres, radii, torch.Generator().manual_seed(1)))
        for starts in (1, 6)
    )
    assert (many >= one).all()
    assert (many > one + 1e-3).any()


def test_the_smallest_flip_is_the_distance_to_the_hyperplane() -> None:
    images = MIDDLE[nearest_flips(MIDDLE) > 0.05]
    truth, attack = nearest_flips(images), attacker(images=images)

    def flipped(rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        return logits(points).argmax(1) != attack.labels[rows]

    rows, start = np.arange(len(images)), 3 * truth
    points = attack.on_surrogate(rows, start)
    known = np.where(flipped(rows, points), grid_distance(points, images), np.inf)
    assert np.isfinite(known).all()
    found = smallest_flips(images, known, attack.on_surrogate, flipped, 10)
    assert len(images) >= 5
    assert (found >= truth).all()  # closed form: nothing nearer flips
    assert (found <= 1.03 * truth).all()
    assert (known > 1.5 * truth).any()  # the search did something
    assert (attack.on_surrogate(rows[:0], truth[:0]).shape, grid_distance(images[:0], images[:0]).shape) == (
        (0, *SHAPE),
        (0,),
    )
    greedy = attacker(images=images, targets=1)  # follows the runner-up, where another class may be nearer
    assert (smallest_flips(images, known, greedy.on_surrogate, flipped, 10) > 1.1 * truth).any()
    known[0] = np.inf
    assert smallest_flips(images, known, attack.on_surrogate, flipped, 2)[0] == np.inf


def test_the_smoothed_linear_classifier_flips_just_beyond_its_radius() -> None:
    """A linear f smoothed is f: its radius is the distance to the hyperplane, which noise cannot move."""
    truth = nearest_flips(MIDDLE, 2)
    images = MIDDLE[truth > 0.05]
    truth, attack = truth[truth > 0.05], attacker(two_classes, images, 2)
    rows = np.arange(len(images))
    within, beyond = (attack.on_smoothed(rows, share * truth) for share in (0.999, 1.05))
    assert (logits(within)[:, :2].argmax(1) == attack.labels).all()
    assert (logits(beyond)[:, :2].argmax(1) != attack.labels).all()
    assert (grid_distance(beyond, images) <= 1.05 * truth).all()


def test_a_gradient_is_left_where_every_draw_is_certain() -> None:
    """Softmax of a margin of 200 is exactly 1 in float32; −log p̄ would have gradient 0 there."""
    points = torch.full((1, *SHAPE), 0.5, requires_grad=True)
    label = torch.zeros(1, dtype=torch.int64)

    def certain(pixels: torch.Tensor) -> torch.Tensor:
        slope = pixels.flatten(1).mean(1)
        return torch.stack([200 + slope, -slope], 1)

    objective = smoothed(certain, label, sigma=0.1, draws=4, generator=torch.Generator().manual_seed(0))
    assert objective(points).item() < -195
    (gradient,) = torch.autograd.grad(objective(points).sum(), points)
    assert gradient.abs().min() > 1e-3
    (lost,) = torch.autograd.grad(-certain(points).log_softmax(1)[0, 0], points)
    assert not lost.any()


def test_smoothed_objective_is_the_log_odds_of_the_mean() -> None:
    points, labels = torch.from_numpy(MIDDLE).float() / 255, torch.from_numpy(logits(MIDDLE).argmax(1))
    found = smoothed(linear, labels, sigma=SIGMA, draws=16, generator=torch.Generator().manual_seed(3))(points)
    noise = torch.randn((COUNT * 16, *SHAPE), generator=torch.Generator().manual_seed(3))
    p = linear(points.repeat_interleave(16, 0) + SIGMA * noise).double().softmax(1).view(COUNT, 16, 3).mean(1)
    own = p.gather(1, labels[:, None])[:, 0]
    assert torch.allclose(found.double(), torch.log((1 - own) / own), atol=1e-4)


def test_batches_cover_all_rows_and_attacks_repeat() -> None:
    rows, radii, seen = np.array([3, 0, 5]), np.array([0.1, 0.2, 0.3]), list[int]()
    attack = attacker(batch_size=16)  # two images a pass of the smoothed attack
    first = attack.on_smoothed(rows, radii, seen.append)
    assert seen == [2, 1]
    assert (first == attack.on_smoothed(rows, radii)).all()
    assert (grid_distance(first, MIDDLE[rows]) > 0.8 * radii).all()
    assert (first != attacker(batch_size=16, seed=1).on_smoothed(rows, radii)).any()
