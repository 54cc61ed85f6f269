"""Solvers against dense algebra."""

import itertools

import pytest
import torch

from paradia.errors import ConvergenceWarning
from paradia.solvers.admm import admm
from paradia.solvers.cg import cg
from paradia.solvers.lsmr import lsmr
from paradia.solvers.proximal import shrink


@pytest.fixture
def system(generator):
    matrix = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    return matrix, torch.randn(30, generator=generator, dtype=torch.float64)


def test_cg_solves(system):
    matrix, right = system
    square = matrix.T @ matrix
    solution = cg(square.matmul, matrix.T @ right, tol=1e-12)
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.linalg.solve(square, matrix.T @ right))


def test_cg_starts_at_the_answer(system):
    matrix, right = system
    square, target = matrix.T @ matrix, matrix.T @ right
    answer = torch.linalg.solve(square, target)
    assert cg(square.matmul, target, x0=answer, tol=1e-8).iterations == 0


def test_cg_leaves_its_start_where_the_right_side_is_nothing(system):
    matrix, _ = system
    normal = matrix.T @ matrix
    solution = cg(lambda x: normal @ x, torch.zeros_like(normal[0]), x0=torch.ones_like(normal[0]), tol=1e-10)
    assert solution.converged
    assert float(solution.x.norm()) < 1e-6


def test_cg_stops_where_the_operator_sees_nothing():
    """A right side that is partly beyond the operator's reach has no solution; what comes is finite, and not called one."""
    operator, right = torch.tensor([1.0, 0.0]).mul, torch.ones(2)
    solution = cg(operator, right, tol=1e-6)
    assert bool(solution.x.isfinite().all())
    assert not solution.converged


def test_preconditioning_saves_iterations(generator):
    scale = torch.logspace(0, 4, 200, dtype=torch.float64)
    right = torch.randn(200, generator=generator, dtype=torch.float64)
    plain = cg(scale.mul, right, max_iter=1000, tol=1e-8)
    helped = cg(scale.mul, right, precondition=lambda r: r / (scale + 0.5), max_iter=1000, tol=1e-8)
    assert helped.iterations < 0.2 * plain.iterations
    torch.testing.assert_close(helped.x, right / scale, rtol=1e-5, atol=1e-8)


def test_cg_can_be_differentiated(system):
    matrix, right = system
    square = matrix.T @ matrix
    target = (matrix.T @ right).requires_grad_()
    (gradient,) = torch.autograd.grad(cg(square.matmul, target, tol=1e-12).x.sum(), target)
    torch.testing.assert_close(gradient, torch.linalg.solve(square, torch.ones_like(target)))


@pytest.mark.parametrize("damp", [0.0, 2.0])
def test_lsmr_solves(system, damp):
    matrix, right = system
    solution = lsmr(matrix.matmul, matrix.T.matmul, right, damp=damp, tol=1e-12)
    assert solution.converged
    square = matrix.T @ matrix + damp**2 * torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(solution.x, torch.linalg.solve(square, matrix.T @ right))


def test_lsmr_tells_its_gradient(system):
    matrix, right = system
    for damp in (0.0, 1.5):
        solution = lsmr(matrix.matmul, matrix.T.matmul, right, damp=damp, max_iter=5, tol=0.0)
        gradient = matrix.T @ (right - matrix @ solution.x) - damp**2 * solution.x
        torch.testing.assert_close(solution.residual, float(gradient.norm() / (matrix.T @ right).norm()), rtol=1e-6, atol=0)
        assert solution.iterations == 5


def test_lsmr_gradient_falls(system):
    matrix, right = system
    fall: list[float] = []
    lsmr(matrix.matmul, matrix.T.matmul, right, tol=1e-10, callback=lambda _, relative: fall.append(relative))
    assert all(b < a for a, b in itertools.pairwise(fall))


def test_zero_gives_zero(system):
    matrix, right = system
    zero = torch.zeros_like(right)
    assert lsmr(matrix.matmul, matrix.T.matmul, zero).x.abs().max() == 0
    assert cg((matrix @ matrix.T).matmul, zero).x.abs().max() == 0


def test_admm_finds_the_lasso(generator):
    """Sparse regression, whose answer has the signature of the l1 norm: gradients of size w on the support."""
    matrix = torch.randn(40, 15, generator=generator, dtype=torch.float64)
    truth = torch.zeros(15, dtype=torch.float64)
    truth[[2, 7]] = torch.tensor([3.0, -2.0], dtype=torch.float64)
    right, weight, rho = matrix @ truth, 4.0, 5.0
    inverse = torch.linalg.inv(matrix.T @ matrix + rho * torch.eye(15, dtype=torch.float64))
    dual = torch.zeros_like(truth)

    def sparse(x):
        nonlocal dual
        split = shrink(x + dual, weight / rho)
        dual = dual + x - split
        return rho * (split - dual)

    solution = admm(
        lambda pull: inverse @ (pull + matrix.T @ right), [sparse], torch.zeros(15, dtype=torch.float64), max_iter=2000, tol=1e-12
    )
    gradient = matrix.T @ (right - matrix @ solution.x)
    support = solution.x.abs() > 1e-6
    assert support.nonzero().flatten().tolist() == [2, 7]
    torch.testing.assert_close(gradient[support], weight * solution.x[support].sign(), rtol=1e-5, atol=1e-6)
    assert gradient[~support].abs().max() < weight


def test_stopping_early_is_told(system):
    matrix, right = system
    solution = lsmr(matrix.matmul, matrix.T.matmul, right, max_iter=2)
    assert not solution.converged
    with pytest.warns(ConvergenceWarning, match="demo stopped after 2 iterations"):
        assert solution.warn("demo") is solution


def test_shrinking_minimises(generator):
    v = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    answer = shrink(v, 0.7)
    best = 0.7 * answer.abs().sum() + (answer - v).square().sum() / 2
    for _ in range(20):
        other = answer + 0.05 * torch.randn(v.shape, generator=generator, dtype=torch.float64)
        assert 0.7 * other.abs().sum() + (other - v).square().sum() / 2 > best
