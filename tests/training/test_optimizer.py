import functools
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vitdeblur_jax.training.lr_mults import frozen_by_lr_mults
from vitdeblur_jax.training.optimizer import (
    check_optimizer,
    decay_factor,
    frozen_paths,
    make_optimizer,
    make_schedule,
    merge,
    trained_part,
)
from vitdeblur_jax.utils.errors import UserError

SHAPES = {
    ("tokenizer", "class_tokens"): (2, 7),
    ("tokenizer", "patch_embedding", "kernel"): (2, 2, 3, 4),
    ("decoder", "dense", "kernel"): (12, 5),
    ("decoder", "dense", "bias"): (5,),
    ("decoder", "norm", "scale"): (5,),
    ("decoder", "last", "kernel"): (5, 1),
}


def configuration(**changes):
    values = {
        "name": "adamw",
        "learning_rate": 0.01,
        "schedule": "constant",
        "warmup_steps": 0,
        "final_learning_rate": 1e-4,
        "decay_share": 0.2,
        "constant_steps": 0,
        "milestones": (),
        "gamma": 0.5,
        "gammas": (),
        "weight_decay": 1e-2,
        "decay_norms_and_biases": True,
        "b1": 0.9,
        "b2": 0.999,
        "epsilon": 1e-8,
        "clip_norm": 0.0,
        "lr_mults": (),
    }
    return ml_collections.ConfigDict(values | changes)


def random_leaves(seed, scale=0.5):
    rng = np.random.default_rng(seed)
    return {path: scale * rng.standard_normal(shape) for path, shape in SHAPES.items()}


def nested(leaves):
    return unflatten_dict({path: jnp.asarray(leaf, jnp.float32) for path, leaf in leaves.items()})


def one_update(config, params, gradients):
    """Returns the first update of each leaf, for float64 leaves."""
    optimizer = make_optimizer(config, make_schedule(config, 10))
    params, gradients = nested(params), nested(gradients)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return flatten_dict(updates)


class LeastSquares:
    """Half the squared distance of A p to b, with an A and a b for each leaf p."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        sizes = {path: np.prod(shape) for path, shape in SHAPES.items()}
        self.a = {path: rng.standard_normal((n + 3, n)) / np.sqrt(n) for path, n in sizes.items()}
        self.b = {path: rng.standard_normal(n + 3) for path, n in sizes.items()}

    def loss(self, params):
        def term(path, leaf):
            product = jnp.matmul(self.a[path], leaf.ravel(), precision="highest")
            return jnp.sum((product - self.b[path]) ** 2) / 2

        return sum(term(path, leaf) for path, leaf in flatten_dict(params).items())

    def gradient(self, path, leaf):
        residual = self.a[path] @ leaf.ravel() - self.b[path]
        return (self.a[path].T @ residual).reshape(leaf.shape)


def adamw_as_pytorch_documents_it(leaf, gradient_at, rates, weight_decay, b1, b2, epsilon):
    """torch.optim.AdamW without amsgrad, one learning rate a step, in float64.

    theta -= lr * weight_decay * theta; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    theta -= lr * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon), t counted from 1.
    """
    theta, m, v = leaf.copy(), np.zeros_like(leaf), np.zeros_like(leaf)
    for t, rate in enumerate(rates, start=1):
        g = gradient_at(theta)
        theta = theta - rate * weight_decay * theta
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        theta = theta - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + epsilon)
    return theta


def multistep_with_warmup(rate, milestones, gamma, warmup_steps, steps):
    """MultiStepLR: lr * gamma for each milestone reached; warm-up multiplies."""
    return [
        rate * gamma ** sum(step >= m for m in milestones) * min(1, (step + 1) / warmup_steps)
        for step in range(steps)
    ]


def radam_as_published(leaf, gradient_at, rate, steps, b1=0.9, b2=0.999, epsilon=1e-8):
    """Algorithm 2 of Liu et al., ICLR 2020, without weight decay, in float64."""
    theta, m, v = leaf.copy(), np.zeros_like(leaf), np.zeros_like(leaf)
    longest = 2 / (1 - b2) - 1
    for t in range(1, steps + 1):
        g = gradient_at(theta)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        length = longest - 2 * t * b2**t / (1 - b2**t)
        update = m / (1 - b1**t)
        if length > 5:
            ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            update = np.sqrt(ratio) * update / (np.sqrt(v / (1 - b2**t)) + epsilon)
        theta = theta - rate * update
    return theta


def after_ten_steps(config, problem, start):
    """Returns the leaves by path."""
    optimizer = make_optimizer(config, make_schedule(config, 10))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(problem.loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = nested(start)
    state = optimizer.init(params)
    for _ in range(10):
        params, state = step(params, state)
    return flatten_dict(params)


def test_ten_steps_match_radam_as_published():
    config = configuration(name="radam", weight_decay=0.0)
    problem, start = LeastSquares(1), random_leaves(2)
    trained = after_ten_steps(config, problem, start)
    for path, leaf in start.items():
        gradient_at = functools.partial(problem.gradient, path)
        expected = radam_as_published(leaf, gradient_at, 0.01, 10)
        np.testing.assert_allclose(trained[path], expected, rtol=0, atol=1e-5)
        assert np.abs(expected - leaf).max() > 0.02


@pytest.mark.parametrize("decay_norms_and_biases", [True, False])
def test_ten_steps_match_adamw_and_multisteplr_as_pytorch_documents_them(decay_norms_and_biases):
    config = configuration(
        schedule="multistep",
        warmup_steps=3,
        milestones=(2, 6, 8),
        weight_decay=0.1,
        epsilon=1e-6,
        decay_norms_and_biases=decay_norms_and_biases,
    )
    problem, start = LeastSquares(1), random_leaves(2)
    trained = after_ten_steps(config, problem, start)
    rates = multistep_with_warmup(0.01, (2, 6, 8), 0.5, 3, 10)
    for path, leaf in start.items():
        decayed = decay_norms_and_biases or path[-1] == "kernel"
        expected = adamw_as_pytorch_documents_it(
            leaf,
            lambda theta, path=path: problem.gradient(path, theta),
            rates,
            0.1 if decayed else 0.0,
            0.9,
            0.999,
            1e-6,
        )
        np.testing.assert_allclose(trained[path], expected, rtol=0, atol=1e-6)
        assert np.abs(expected - leaf).max() > 0.02


def rates_at(steps, run=100, **changes):
    schedule = jax.jit(make_schedule(configuration(learning_rate=0.8, **changes), run))
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("run", [10, 100])
def test_the_constant_schedule_does_not_depend_on_the_length_of_the_run(run):
    np.testing.assert_allclose(rates_at([0, 1, 99, 1000], run), 0.8, rtol=1e-6)


def test_multistep_changes_at_the_milestone_itself():
    rates = rates_at([0, 29, 30, 59, 60, 99], schedule="multistep", milestones=(30, 60))
    np.testing.assert_allclose(rates, [0.8, 0.8, 0.4, 0.4, 0.2, 0.2], rtol=1e-6)


def test_cosine_falls_from_the_first_to_the_final_learning_rate():
    rates = rates_at([0, 25, 50, 100, 120], schedule="cosine", final_learning_rate=0.2)
    # 0.2 + 0.6 * (1 + cos(pi t)) / 2 at t = 0, 1/4, 1/2, 1.
    np.testing.assert_allclose(rates, [0.8, 0.712132, 0.5, 0.2, 0.2], rtol=1e-6)


def test_wsd_is_constant_then_falls_linearly():
    changes = {"schedule": "wsd", "decay_share": 0.25, "final_learning_rate": 0.2}
    rates = rates_at([0, 74, 75, 80, 90, 100, 120], **changes)
    # 0.8 - 0.6 * t / 25, t steps after the 75th.
    np.testing.assert_allclose(rates, [0.8, 0.8, 0.8, 0.68, 0.44, 0.2, 0.2], rtol=1e-6)
    config = configuration(learning_rate=0.8, **changes)
    in_time = [0.8 * decay_factor(config, done) for done in (0, 0.74, 0.75, 0.8, 0.9, 1, 1.2)]
    np.testing.assert_allclose(in_time, rates, rtol=1e-6)


def test_with_a_time_limit_the_steps_decide_on_the_warmup_alone():
    config = configuration(learning_rate=0.8, schedule="wsd", warmup_steps=4)
    schedule = make_schedule(config, None)
    rates = [schedule(step) for step in (0, 3, 10**6)]
    np.testing.assert_allclose(rates, [0.2, 0.8, 0.8], rtol=1e-6)


def test_cosine_falls_after_the_constant_steps():
    changes = {"schedule": "cosine", "final_learning_rate": 0.2, "constant_steps": 20}
    rates = rates_at([0, 20, 40, 60, 100, 120], **changes)
    np.testing.assert_allclose(rates, [0.8, 0.8, 0.712132, 0.5, 0.2, 0.2], rtol=1e-6)


def test_each_milestone_may_have_its_own_factor():
    rates = rates_at([29, 30, 60], schedule="multistep", milestones=(30, 60), gammas=(0.5, 0.25))
    np.testing.assert_allclose(rates, [0.8, 0.4, 0.1], rtol=1e-6)


def test_warmup_wastes_no_step_and_leaves_milestones_where_they_are():
    rates = rates_at(
        [0, 1, 2, 3, 4, 49, 50], schedule="multistep", milestones=(2, 50), warmup_steps=4
    )
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.3, 0.4, 0.4, 0.4, 0.2], rtol=1e-6)
    rates = rates_at([0, 50], schedule="cosine", final_learning_rate=0.2, warmup_steps=100)
    np.testing.assert_allclose(rates, [0.008, 0.255], rtol=1e-6)


def test_the_learning_rate_is_a_float32_scalar():
    for name in ("constant", "multistep", "cosine", "wsd"):
        schedule = make_schedule(configuration(schedule=name, milestones=(3,)), 10)
        for step in (0, np.int32(3), jnp.int32(3)):
            rate = schedule(step)
            assert (rate.shape, rate.dtype) == ((), jnp.float32)


def test_the_optimizer_follows_the_schedule():
    config = configuration(schedule="multistep", milestones=(2,), gamma=0.1, weight_decay=0.0)
    optimizer = make_optimizer(config, make_schedule(config, 4))
    params = {"decoder": {"bias": jnp.ones(1)}}
    state, moves = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(params, state, params)
        moves.append(float(updates["decoder"]["bias"][0]))
    # Adam moves by the learning rate itself while the gradient stays the same.
    np.testing.assert_allclose(moves, [-0.01, -0.01, -0.001], rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_multiplier_scales_the_whole_update(name):
    params, gradients = random_leaves(1), random_leaves(2)
    plain = one_update(configuration(name=name, weight_decay=5.0), params, gradients)
    config = configuration(lr_mults=(("decoder/.*", 0.1),), name=name, weight_decay=5.0)
    scaled = one_update(config, params, gradients)
    for path, update in plain.items():
        multiplier = 0.1 if path[0] == "decoder" else 1.0
        np.testing.assert_allclose(scaled[path], multiplier * update, rtol=1e-6)


def test_frozen_parameters_have_no_state_and_come_back_unchanged():
    config = configuration(lr_mults=(("tokenizer/.*", 0.0), ("decoder/.*", 0.1)))
    params = nested(random_leaves(1))
    frozen = frozen_by_lr_mults(params, config.lr_mults)
    trained = trained_part(params, frozen)
    assert list(trained) == ["decoder"]
    assert trained["decoder"].keys() == params["decoder"].keys()
    optimizer = make_optimizer(config, make_schedule(config, 10))
    state = optimizer.init(trained)
    assert "tokenizer" not in str(jax.tree_util.tree_structure(state))

    @jax.jit
    def step(params):
        trained = trained_part(params, frozen)
        updates, _ = optimizer.update(trained, state, trained)
        return merge(optax.apply_updates(trained, updates), params)

    after = flatten_dict(step(params))
    assert after.keys() == SHAPES.keys()
    for path, before in flatten_dict(params).items():
        assert np.array_equal(after[path], before) == (path[0] == "tokenizer")


def test_single_leaves_and_inner_modules_can_be_frozen():
    tree = nested(random_leaves(1))
    trained = trained_part(tree, {("decoder", "dense"), ("tokenizer", "class_tokens")})
    assert trained.keys() == {"tokenizer", "decoder"}
    assert trained["tokenizer"].keys() == {"patch_embedding"}
    assert trained["decoder"].keys() == {"norm", "last"}
    assert trained_part(tree, [("tokenizer",), ("decoder",)]) == {}
    assert jax.tree.structure(merge({}, tree)) == jax.tree.structure(tree)


@pytest.mark.parametrize(
    "frozen",
    ["decoder/dense", ["decoder/dense"], [("decoder", "dense")], iter(["/decoder/dense/"])],
)
def test_a_frozen_path_may_be_written_as_a_string(frozen):
    assert frozen_paths(SHAPES, frozen) == (("decoder", "dense"),)


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ("decodr", "no parameters 'decodr' (did you mean 'decoder'?)"),
        (["tokenizer", "decoder.dense"], "'decoder.dense' (did you mean 'decoder/dense'?)"),
        (("decoder", "norm"), "no parameters 'norm' (did you mean 'decoder/norm'?)"),
        ([("decoder", "deco")], "no parameters 'decoder/deco' (did you mean "),
        (["params/decoder"], "'params/decoder' (did you mean 'decoder'?)"),
        ("", "no parameters ''; the parameters are in tokenizer, decoder"),
        ([()], "no parameters ''"),
        ("xyz", "no parameters 'xyz'; the parameters are in tokenizer, decoder"),
    ],
)
def test_a_frozen_path_without_parameters_is_refused(frozen, message):
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        trained_part(nested(random_leaves(1)), frozen)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_gradients_are_clipped_by_their_global_norm_before_adam(clip_norm):
    # A large epsilon makes the first update depend on the gradient's size: g / (|g| + epsilon).
    params, gradients = random_leaves(1), random_leaves(2)
    config = configuration(clip_norm=clip_norm, epsilon=1.0, weight_decay=0.0)
    updates = one_update(config, params, gradients)
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients.values()))
    assert 1 < norm < 10
    for path, gradient in gradients.items():
        clipped = gradient * min(1, clip_norm / norm)
        # The bias corrections are computed in float32: 1 - 0.999 is exact to 2e-5 there.
        expected = -0.01 * clipped / (np.abs(clipped) + 1)
        np.testing.assert_allclose(updates[path], expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)])
def test_muon_orthogonalises_matrices_to_a_root_mean_square_of_a_fifth(shape):
    gradient = np.random.default_rng(3).standard_normal(shape)
    before = np.linalg.svd(gradient, compute_uv=False)
    assert before[0] / before[-1] > 2.5

    config = configuration(name="muon", weight_decay=0.0, learning_rate=1.0)
    optimizer = make_optimizer(config, make_schedule(config, 10))
    tree = {"decoder": {"kernel": jnp.asarray(gradient, jnp.float32)}}
    updates, _ = optimizer.update(tree, optimizer.init(tree), tree)
    left, values, right = np.linalg.svd(updates["decoder"]["kernel"], full_matrices=False)

    # Five Newton-Schulz steps bring the singular values to 0.7 to 1.2, by design.
    expected = 0.2 * np.sqrt(max(shape))
    assert np.all((values > 0.65 * expected) & (values < 1.25 * expected))
    assert 0.14 < np.sqrt(np.mean(np.square(updates["decoder"]["kernel"]))) < 0.25
    polar_left, _, polar_right = np.linalg.svd(gradient, full_matrices=False)
    aligned = np.sum((left @ right) * -(polar_left @ polar_right)) / min(shape)
    assert aligned > 0.999


def muon_as_published(gradients, beta=0.95, coefficients=(3.4445, -4.775, 2.0315)):
    """The last update of Jordan's Muon, scaled as Liu et al. do, in float64 and literally.

    Nesterov momentum, here an average whose bias is corrected; X / ||X||_F; five times
    X = a X + (b A + c A^2) X with A = X X^T, of the wide one of X and X^T; 0.2 sqrt(max(m, n)) X.
    """
    a, b, c = coefficients
    momentum = 0.0
    for t, gradient in enumerate(gradients, start=1):
        momentum = beta * momentum + (1 - beta) * gradient
        ahead = beta * momentum / (1 - beta ** (t + 1))
        ahead = ahead + (1 - beta) * gradient / (1 - beta**t)
    x = ahead.T if ahead.shape[0] > ahead.shape[1] else ahead
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    x = x.T if ahead.shape[0] > ahead.shape[1] else x
    return 0.2 * np.sqrt(max(x.shape)) * x


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)])
def test_three_updates_match_muon_as_published(shape):
    gradients = np.random.default_rng(4).standard_normal((3, *shape))
    config = configuration(name="muon", weight_decay=0.0, learning_rate=0.01)
    optimizer = make_optimizer(config, make_schedule(config, 10))
    params = {"head": {"kernel": jnp.zeros(shape)}}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients.astype(np.float32):
        updates, state = update({"head": {"kernel": gradient}}, state, params)
    expected = -0.01 * muon_as_published(gradients)
    np.testing.assert_allclose(updates["head"]["kernel"], expected, rtol=0, atol=2e-7)


def test_muon_leaves_all_but_matrices_to_adam():
    params, gradients = random_leaves(1), random_leaves(2)
    muon = one_update(configuration(name="muon"), params, gradients)
    adam = one_update(configuration(), params, gradients)
    for path, update in adam.items():
        if path == ("decoder", "dense", "kernel"):
            assert not np.allclose(muon[path], update, rtol=0.1)
        else:
            np.testing.assert_array_equal(muon[path], update)


@pytest.mark.parametrize("decay_norms_and_biases", [True, False])
def test_muon_decays_as_adamw_does(decay_norms_and_biases):
    changes = {"name": "muon", "decay_norms_and_biases": decay_norms_and_biases}
    params, gradients = random_leaves(1), random_leaves(2)
    plain = one_update(configuration(weight_decay=0.0, **changes), params, gradients)
    decayed = one_update(configuration(weight_decay=3.0, **changes), params, gradients)
    for path, update in plain.items():
        decays = decay_norms_and_biases or path[-1] == "kernel"
        expected = update - 0.01 * 3.0 * params[path] * decays
        np.testing.assert_allclose(decayed[path], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("schedule", ["constant", "multistep", "cosine", "wsd"])
def test_the_state_holds_arrays_alone_and_keeps_their_types(name, schedule):
    config = configuration(name=name, schedule=schedule, milestones=(3,), clip_norm=1.0)
    optimizer = make_optimizer(config, make_schedule(config, 10))
    params = nested(random_leaves(1))
    state = optimizer.init(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))

    # Weak types too, which equal shapes and dtypes would hide: they make a step compile twice.
    updates, after = jax.eval_shape(optimizer.update, params, state, params)
    assert jax.tree.map(jax.typeof, (params, state)) == jax.tree.map(
        lambda leaf: jax.core.ShapedArray(leaf.shape, leaf.dtype, leaf.weak_type), (updates, after)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "adamv"},
            r"optimizer.name is 'adamv' .*did you mean 'adamw'.*adamw, radam, muon",
        ),
        ({"schedule": "cosin"}, r"optimizer.schedule is 'cosin' .*did you mean 'cosine'"),
        ({"learning_rate": 0.0}, r"optimizer.learning_rate .*0\.0"),
        ({"learning_rate": -0.1}, r"optimizer.learning_rate .*-0\.1"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate .*nan"),
        ({"final_learning_rate": -1.0}, r"optimizer.final_learning_rate .*-1\.0"),
        ({"gamma": 0.0}, r"optimizer.gamma .*0\.0"),
        ({"epsilon": 0.0}, r"optimizer.epsilon .*0\.0"),
        ({"warmup_steps": 101}, r"optimizer.warmup_steps .*101.*100"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps .*-1"),
        ({"schedule": "multistep", "milestones": (50, 20)}, r"must increase.*\(50, 20\)"),
        ({"schedule": "multistep", "milestones": (20, 20)}, r"must increase.*\(20, 20\)"),
        ({"schedule": "multistep", "milestones": (0, 20)}, r"milestones is \(0, 20\); .* >= 1"),
        (
            {"schedule": "multistep", "milestones": (20, 100)},
            "between 0 and num_steps, 100: 100 does",
        ),
        (
            {"schedule": "multistep", "milestones": (20, 50), "gammas": (0.5,)},
            "gammas has 1 factors for 2 milestones",
        ),
        ({"schedule": "cosine", "constant_steps": 100}, "constant_steps is 100; .* less than"),
        ({"b1": 1.0}, r"optimizer.b1 .*1\.0"),
        ({"b2": -0.1}, r"optimizer.b2 .*-0\.1"),
        ({"weight_decay": -0.1}, r"optimizer.weight_decay .*-0\.1"),
        ({"clip_norm": -2.0}, r"optimizer.clip_norm .*-2\.0"),
        (
            {"lr_mults": (("decoder/.*", -1.0),)},
            r"optimizer.lr_mults is .*-1\.0.*pairs of a regular",
        ),
        (
            {"lr_mults": ("decoder/.*", 0.1)},
            r"optimizer.lr_mults is \('decoder.*pairs of a regular",
        ),
    ],
)
def test_a_mistake_in_the_configuration_is_told_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as refusal:
        check_optimizer(configuration(**changes), 100)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "multistep", "milestones": (1, 99), "warmup_steps": 100},
        {"schedule": "cosine", "milestones": (500,), "final_learning_rate": 0.0},
        {"name": "muon", "clip_norm": 1.0, "b1": 0.0, "weight_decay": 0.0},
        {"lr_mults": (("decoder/.*", 0.0), (".*/bias", 2))},
    ],
)
def test_a_good_configuration_passes(changes):
    check_optimizer(configuration(**changes), 100)
