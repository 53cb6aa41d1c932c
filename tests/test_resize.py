import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_face import T1

from aujax import resize

pytestmark = pytest.mark.jax_versions

RNG = np.random.default_rng(0)


def _line_by_line(line, n_out):
    """Section 11.1 of the fact sheet, one output number at a time, in double precision."""
    n_in = len(line)
    scale = (n_in - 1) / (n_out - 1)
    reach = max(scale, 1.0)
    numbers = []
    for i in range(n_out):
        centre = scale * (i + 0.5)
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), n_in)
        weights = [max(0.0, 1 - abs(j - centre + 0.5) / max(scale, 1)) for j in range(first, last)]
        numbers.append(sum(w * line[j] for w, j in zip(weights, range(first, last), strict=True)) / sum(weights))
    return numbers


def _plane_by_lines(plane, size):
    wide = np.array([_line_by_line(row, size[1]) for row in plane.astype(np.float64)])
    return np.array([_line_by_line(column, size[0]) for column in wide.T]).T


@pytest.mark.parametrize(
    ("n_in", "n_out"),
    [(224, 112), (224, 56), (224, 28), (224, 14), (28, 224), (14, 224), (26, 224), (112, 14), (14, 112), (7, 7)],
)
def test_torch_aligned_is_the_kernel_of_the_loss_and_the_metric(n_in, n_out):
    line = RNG.normal(size=n_in)
    ours = resize.torch_aligned_matrix(n_in, n_out) @ line
    np.testing.assert_allclose(ours, _line_by_line(line, n_out), atol=1e-6)


def test_torch_aligned_resamples_both_axes_of_a_map_that_is_not_square():
    plane = RNG.normal(size=(30, 17)).astype(np.float32)
    np.testing.assert_allclose(
        resize.torch_aligned(jnp.array(plane), (9, 40)), _plane_by_lines(plane, (9, 40)), atol=1e-5
    )


def test_torch_aligned_has_the_golden_values():
    enlarged = resize.torch_aligned(jnp.array(T1), (224, 224))
    values = enlarged[0, 0], enlarged[100, 50], enlarged[223, 223]
    np.testing.assert_allclose(values, [3.000000, 2.082961, 3.544147], atol=1e-5)


def test_torch_aligned_at_equal_size_is_the_identity():
    plane = jnp.array(T1)
    assert resize.torch_aligned(plane, (28, 28)) is plane


@pytest.mark.parametrize("size", [(5, 4), (40, 60)])
@pytest.mark.parametrize("resample", [resize.torch_aligned, resize.bilinear, resize.nearest])
def test_constant_map_stays_constant(resample, size):
    np.testing.assert_allclose(resample(jnp.full((2, 13, 20), 3.0), size), np.full((2, *size), 3.0), rtol=1e-6)


def test_torch_aligned_to_one_pixel_takes_the_first():
    np.testing.assert_array_equal(resize.torch_aligned_matrix(5, 1), [[1, 0, 0, 0, 0]])


@pytest.mark.parametrize("size", [(224, 224), (50, 33), (9, 11)])
def test_bilinear_is_that_of_opencv(size):
    plane = RNG.normal(size=(14, 20)).astype(np.float32)
    ours = resize.bilinear(jnp.array(plane), size)
    np.testing.assert_allclose(ours, cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR), atol=1e-4)


def test_bilinear_by_hand():
    ours = resize.bilinear(jnp.array([[0.0, 4.0]]), (1, 4))
    np.testing.assert_allclose(ours, [[0.0, 1.0, 3.0, 4.0]], atol=1e-6)


def test_nearest_by_hand():
    plane = jnp.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(resize.nearest(plane, (4, 2)), [[0, 2], [0, 2], [4, 6], [4, 6]])


def test_nearest_of_half_the_size_takes_every_second_pixel():
    np.testing.assert_array_equal(resize.nearest_indices(224, 112), 2 * np.arange(112))


@pytest.mark.parametrize("n_in", [234, 248])
def test_nearest_rounds_in_single_precision_where_exact_arithmetic_differs(n_in):
    exact = [i * n_in // 224 for i in range(224)]
    indices = resize.nearest_indices(n_in, 224)
    assert (indices != exact).any()
    assert np.abs(indices - exact).max() == 1


@pytest.mark.parametrize("resample", [resize.torch_aligned, resize.bilinear, resize.nearest])
def test_leading_axes_are_kept_and_vmap_and_jit_change_nothing(resample):
    maps = jnp.array(RNG.normal(size=(2, 3, 6, 8)).astype(np.float32))
    batch = resample(maps, (5, 12))
    one_by_one = jax.jit(jax.vmap(jax.vmap(lambda plane: resample(plane, (5, 12)))))(maps)
    assert batch.shape == (2, 3, 5, 12)
    np.testing.assert_allclose(batch, one_by_one, atol=1e-6)


@pytest.mark.parametrize(("n_in", "n_out"), [(224, 28), (28, 224), (17, 96)])
def test_weighted_rows_is_the_product_with_the_matrix(n_in, n_out):
    matrix = resize.torch_aligned_matrix(n_in, n_out)
    maps = RNG.normal(size=(2, n_in, 5)).astype(np.float32)
    np.testing.assert_allclose(resize.weighted_rows(jnp.array(maps), matrix), matrix @ maps, atol=1e-5)


def test_banded_is_the_product_with_both_matrices():
    rows, columns = (np.tril(np.triu(RNG.normal(size=(n, n)), -2), 1) for n in (9, 6))
    plane = RNG.normal(size=(9, 6)).astype(np.float32)
    np.testing.assert_allclose(resize.banded(jnp.array(plane), rows, columns), rows @ plane @ columns.T, atol=1e-5)


def test_the_derivative_of_banded_has_no_scatter():
    matrix = resize.bilinear_matrix(8, 32)
    gram = matrix.T @ matrix
    gradient = jax.make_jaxpr(jax.grad(lambda plane: resize.banded(plane, gram, gram).sum()))(jnp.ones((8, 8)))
    assert "scatter" not in str(gradient)


def test_area_resize_to_cells_that_do_not_divide_the_map_shares_its_pixels():
    # Three pixels on two cells: the middle one is halved.
    found = resize.area_resize(jnp.array([[1.0, 4.0, 9.0]] * 2), (2, 2))
    np.testing.assert_allclose(found, [[2.0, 22 / 3]] * 2, rtol=1e-6)
