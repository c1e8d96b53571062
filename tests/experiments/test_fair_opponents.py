"""IDA is asked in the way that suits it: Newton's iteration, the first step, absolute tolerances."""

import json

import numpy as np
import pytest

from ndae.experiments.crosscheck.digits import error_scales
from ndae.experiments.problems import load_problem, problem_from_text

pytest.importorskip("sksundae")
from ndae.solvers.outside.ida import solve_ida


def ida(problem, form, rtol, **options):
    ts = np.linspace(*problem.t_span, 101)
    return solve_ida(problem.system, problem.initial, ts, form=form, rtol=rtol, throw=False, **options)


def test_full_newton_where_the_error_test_watches_algebraic_equations():
    # Sums of two rows of the amplifier have no derivative: of a singular mass matrix IDA sees no algebraic variable.
    problem = load_problem("transistor_amplifier")
    chosen = ida(problem, "original", 1e-8)
    modified = ida(problem, "original", 1e-8, newton="modified", max_steps=3 * chosen.stats["n_steps"])
    assert chosen.succeeded
    assert modified.result.startswith("gave up after")
    end = problem.best_reference()[0]
    assert all(abs(chosen[name][-1] - value) < 1e-5 * abs(value) for name, value in end.items())


def test_modified_newton_where_it_does_not():
    problem = load_problem("car_axis")
    chosen, modified, full = (ida(problem, "ggl", 1e-6, newton=newton) for newton in (None, "modified", "full"))
    assert chosen.stats == modified.stats
    assert modified.stats["n_jacobian_evals"] < modified.stats["n_steps"] / 3
    assert full.stats["n_jacobian_evals"] >= full.stats["n_steps"]
    np.testing.assert_allclose(chosen["xl"], full["xl"], atol=1e-4)


def test_newtons_iteration_is_one_of_two():
    with pytest.raises(ValueError, match='newton must be "modified", "full" or None'):
        ida(load_problem("car_axis"), "ggl", 1e-6, newton="chord")


def test_a_first_step_that_is_too_long_by_far_is_tried_again():
    # At t = 0 the diode begins to conduct: Y' = 0 there says nothing of what follows.
    diode = {
        "states": ["v", "i"],
        "equations": ["v_dot+v-i", "i-Piecewise((10*(sin(t)-v),sin(t)>v),(0,True))"],
        "initial": {"v": 0},
        "t_span": [0, 10],
    }
    found = ida(problem_from_text(json.dumps(diode)), "original", 1e-10)
    assert found.result == "successful"
    assert found.stats["n_steps"] > 100


def test_tolerances_do_not_vanish_where_a_variable_touches_zero():
    # y of the pendulum that swings from one side at the height of its pivot to the other: -g/2 (t - 1)² near t = 1.
    t = np.linspace(0, 2, 101)
    touching = -(np.sin(np.pi * t / 2) ** 2) * np.cos(np.pi * t / 2) ** 2 - 1e-9
    decaying, kept = np.exp(-5 * t), np.full_like(t, 0.3)
    scales = error_scales(np.stack([touching, decaying, kept], axis=1))
    assert 1e-3 < scales[0] < 0.25
    assert scales[1] == pytest.approx(np.exp(-10), rel=0.7)  # within a tenth of the time of its end
    assert scales[2] == 0.3
