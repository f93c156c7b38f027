"""Means over the steps, against NumPy; how far the host runs ahead; what is not finite."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitdeblur_jax.training.metrics_window import MetricsWindow, NotFiniteError


def measured(loss, finite=True, **others):
    return {"loss": jnp.float32(loss), "finite": jnp.bool_(finite), **others}


def add_all(window, losses, first_step=1):
    for step, loss in enumerate(losses, first_step):
        window.add(step, measured(loss))


@pytest.fixture
def losses():
    return np.random.default_rng(0).lognormal(sigma=5, size=37).astype(np.float32)


@pytest.fixture
def reads(monkeypatch):
    """The losses that were read from the device, in order."""
    read, device_get = [], jax.device_get

    def recorded(metrics):
        read.append(float(metrics["loss"]))
        return device_get(metrics)

    monkeypatch.setattr(jax, "device_get", recorded)
    return read


def test_means_match_numpy(losses):
    window = MetricsWindow()
    for step, loss in enumerate(losses):
        window.add(step, measured(loss, images=jnp.int32(step)))
    means = window.means()
    assert set(means) == {"loss", "images"}
    np.testing.assert_allclose(means["loss"], losses.astype(np.float64).mean(), rtol=1e-14)
    assert means["images"] == 18


def test_a_reset_begins_behind_what_was_added(losses):
    window = MetricsWindow()
    add_all(window, losses[:20])
    window.reset()
    assert window.means() == {}
    add_all(window, losses[20:])
    expected = losses[20:].astype(np.float64).mean()
    np.testing.assert_allclose(window.means()["loss"], expected, rtol=1e-14)


def test_a_step_is_read_eight_steps_later(reads):
    window = MetricsWindow()
    add_all(window, range(8))
    assert reads == []
    add_all(window, [8, 9])
    assert reads == [0, 1]
    window.drain()
    assert reads == list(range(10))
    window.drain()
    assert len(reads) == 10


@pytest.mark.parametrize("stop", [0, 5, 30, 37])
def test_the_state_goes_on_exactly_through_json(losses, stop):
    whole, before = MetricsWindow(), MetricsWindow()
    add_all(whole, losses)
    add_all(before, losses[:stop])
    after = MetricsWindow(json.loads(json.dumps(before.state())))
    add_all(after, losses[stop:], stop + 1)
    assert after.means() == whole.means()
    assert after.state() == whole.state()


def test_the_error_names_step_terms_and_images():
    window = MetricsWindow()
    blame = {
        "sharpness": jnp.float32(0.5),
        "cosine": jnp.float32(jnp.inf),
        "gradient_norm": jnp.float32(jnp.nan),
        "images_finite": jnp.array([True, False, True, False]),
    }
    window.add(7, measured(jnp.nan, finite=False, **blame))
    with pytest.raises(NotFiniteError, match=r"step 7 .*cosine, gradient_norm, loss") as caught:
        window.means()
    assert caught.value.step == 7
    assert caught.value.names == ("cosine", "gradient_norm", "loss")
    assert caught.value.images == (1, 3)


def test_the_error_comes_when_the_step_is_read():
    window = MetricsWindow()
    window.add(1, measured(jnp.nan, finite=False))
    add_all(window, range(7), first_step=2)
    with pytest.raises(NotFiniteError, match="step 1 "):
        window.add(9, measured(0.0))


def test_steps_left_out_do_not_count_in_means():
    window = MetricsWindow(allowed_skips=2)
    for step, loss in enumerate([1.0, jnp.nan, 3.0, jnp.inf, 8.0]):
        window.add(step, measured(loss, finite=jnp.isfinite(loss)))
    assert window.means() == {"loss": 4.0}


def test_the_allowance_is_that_of_the_whole_run():
    window = MetricsWindow(allowed_skips=2)
    window.add(1, measured(jnp.nan, finite=False))
    window.reset()
    window = MetricsWindow(json.loads(json.dumps(window.state())), allowed_skips=2)
    window.add(2, measured(jnp.nan, finite=False))
    assert window.means() == {}
    window.add(3, measured(jnp.nan, finite=False))
    with pytest.raises(NotFiniteError, match="step 3 "):
        window.drain()


def test_nothing_is_transferred_unasked():
    metrics = [measured(step, images_finite=jnp.ones(2, bool)) for step in range(12)]
    with jax.transfer_guard("disallow"):
        window = MetricsWindow()
        for step, of_step in enumerate(metrics):
            window.add(step, of_step)
        assert window.means() == {"loss": 5.5}
