"""Memory of programs and devices, and the messages where a program does not fit."""

import types

import jax
import jax.numpy as jnp
import pytest

from aujax.data.batch import data_mesh
from aujax.errors import UserError
from aujax.training import memory

pytestmark = pytest.mark.jax_versions


def test_a_program_needs_its_arguments_results_and_what_it_holds_between():
    program = jax.jit(lambda x: jnp.sort(x @ x)[0].sum()).lower(jnp.zeros((64, 64))).compile()
    assert memory.needed(program) >= 2 * 64 * 64 * 4 + 4


def test_arguments_that_are_given_up_are_counted_once():
    kept, given_up = (jax.jit(jnp.sin, donate_argnums=at).lower(jnp.zeros(1000)).compile() for at in ((), 0))
    assert memory.needed(kept) - memory.needed(given_up) == 4000


def test_an_accelerator_reports_its_free_memory():
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000, "bytes_in_use": 200})
    assert memory.available(device) == 800


def test_devices_on_the_cpu_share_the_memory_of_the_machine(monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=8000))
    assert memory.available(jax.devices()[0]) == 1000  # one of 8
    assert memory.capacity(data_mesh(jax.devices()[:2])) == 950  # the allocator needs some


def test_what_a_program_is_given_is_not_counted_as_taken(monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=8000))
    assert memory.capacity(data_mesh(jax.devices()[:2]), {"params": jnp.zeros(250)}) == 1900


def lowered_to(error):
    def fail():
        raise jax.errors.JaxRuntimeError(error)

    return types.SimpleNamespace(compile=fail)


def test_a_program_that_the_compiler_finds_too_large_does_not_fit():
    with pytest.raises(memory.DoesNotFit, match=r"more than a device has \(RESOURCE_EXHAUSTED: 80 GiB\)"):
        memory.compiled(lowered_to("RESOURCE_EXHAUSTED: 80 GiB\nmore"))


def test_another_error_of_the_compiler_stays_what_it_is():
    with pytest.raises(jax.errors.JaxRuntimeError):
        memory.compiled(lowered_to("INTERNAL: no idea"))


def test_what_fits_passes():
    memory.check(10, 10)


def test_what_does_not_fit_is_refused_with_both_numbers():
    with pytest.raises(memory.DoesNotFit, match=r"^4 MiB of each device, which has 2 KiB left$"):
        memory.check(4 * 2**20, 2**11)


@pytest.mark.parametrize(("capacity", "expected"), [(1000, 128), (107 * 8, 104), (155, 0), (99, 0)])
def test_the_largest_batch_is_a_multiple_that_fits(capacity, expected):
    assert memory.largest_batch(lambda faces: 100 + 7 * faces, 640, unit=8, capacity=capacity) == expected


def test_the_largest_batch_is_tried_and_not_only_computed():
    def in_steps(faces):
        return 100 * -(-faces // 64)

    assert memory.largest_batch(in_steps, 640, unit=8, capacity=350) == 160


def test_sizes_that_the_compiler_refuses_are_halved():
    def needed_for(faces):
        return float("inf") if faces > 100 else 10 * faces

    assert memory.largest_batch(needed_for, 640, unit=8, capacity=2000) == 80


def test_a_batch_that_cannot_be_smaller_has_no_largest():
    assert memory.largest_batch(lambda faces: 100, 8, unit=8, capacity=10) == 0


def test_a_full_device_is_reported_to_the_user():
    with (
        pytest.raises(UserError, match=r"the memory of a device is full \(RESOURCE_EXHAUSTED: 3 GiB\); take a smaller"),
        memory.exhaustion_explained(),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 3 GiB\nmore")


def test_another_error_of_the_runtime_stays_what_it_is():
    with pytest.raises(jax.errors.JaxRuntimeError), memory.exhaustion_explained():
        raise jax.errors.JaxRuntimeError("INTERNAL: no idea")
