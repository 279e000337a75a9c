"""The public functions: what they return, and what they say to a wrong call."""

from __future__ import annotations

import inspect
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import hal
from hal.ops import OPERATORS

F32 = np.float32
x34 = np.arange(12, dtype=F32).reshape(3, 4)
x45 = np.arange(20, dtype=F32).reshape(4, 5)


@pytest.fixture(autouse=True)
def _on_the_reference() -> Any:
    with hal.use("cpu"):
        yield


def test_matmul_has_numpy_s_shapes() -> None:
    for a, b in [
        ((4,), (4,)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((2, 1, 3, 4), (6, 4, 5)),
        ((0, 4), (4, 2)),
        ((4,), (7, 4, 2)),
    ]:
        p, q = np.ones(a, F32), np.ones(b, F32)
        np.testing.assert_array_equal(hal.matmul(p, q), np.matmul(p, q))


def test_an_empty_sum_is_zero_plus_bias() -> None:
    result = hal.matmul(np.ones((2, 0), F32), np.ones((0, 3), F32), bias=np.array([1, 2, 3], F32))
    np.testing.assert_array_equal(result, [[1, 2, 3]] * 2)


def test_half_precision_rounds_once_at_the_end() -> None:
    ones = np.ones((1, 4096), np.float16)
    assert hal.matmul(ones, ones.T)[0, 0] == 4096
    big = np.array([[60000, 60000, -60000]], np.float16)
    assert hal.matmul(big, np.ones((3, 1), np.float16))[0, 0] == 60000
    assert hal.matmul(big[:, :2], np.ones((2, 1), np.float16))[0, 0] == np.inf
    assert hal.matmul(big[:, :2], np.ones((2, 1), np.float16), out_dtype="float32")[0, 0] == 120000
    bf = np.ones((1, 1024), ml_dtypes.bfloat16)
    assert hal.matmul(bf, bf.T)[0, 0] == 1024


def test_int8_sums_in_int32() -> None:
    a = np.full((1, 1000), -128, np.int8)
    result = hal.matmul(a, a.T, bias=np.array([7], np.int32))
    assert result.dtype == np.int32 and result[0, 0] == 128 * 128 * 1000 + 7


def test_softmax_s_edges() -> None:
    inf, nan = F32(np.inf), F32(np.nan)
    np.testing.assert_array_equal(
        hal.softmax(np.array([[1000, 1001, 1002]], F32)), hal.softmax(np.array([[0, 1, 2]], F32))
    )
    np.testing.assert_array_equal(hal.softmax(np.array([0, -inf], F32)), [1, 0])
    assert np.isnan(hal.softmax(np.array([[-inf, -inf], [inf, 0], [nan, 0]], F32))).all()
    nothing = np.zeros((1, 2), np.bool_)
    np.testing.assert_array_equal(hal.softmax(np.array([[nan, 3]], F32), mask=nothing), [[0, 0]])
    np.testing.assert_array_equal(hal.log_softmax(np.array([[nan, 3]], F32), mask=nothing), [[-inf, -inf]])
    np.testing.assert_array_equal(hal.log_softmax(np.array([1000, 0], F32)), [0, -1000])
    assert hal.softmax(np.zeros((2, 0), F32)).shape == (2, 0)


def test_norms_return_what_was_asked_in_order() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float16)
    y, s, mean, rstd = hal.layernorm(x, residual=x, return_stats=True, axis=1)
    assert (s == x + x).all() and mean.shape == rstd.shape == (2, 1, 1) and mean.dtype == F32 and y.dtype == np.float16
    y, rstd = hal.rmsnorm(x, np.ones(4, F32), return_stats=True)
    assert y.shape == x.shape and rstd.shape == (2, 3, 1)
    np.testing.assert_array_equal(hal.layernorm(x, axis=(1, 2)), hal.layernorm(x, axis=1))
    out = (np.empty_like(x), np.empty_like(x))
    assert hal.layernorm(x, residual=x, out=out) is out and (out[1] == x + x).all()


def test_constant_rows_are_exactly_the_bias() -> None:
    bias = np.array([1, 2, 3, 4], F32)
    np.testing.assert_array_equal(hal.layernorm(np.full((2, 4), 7, F32), None, bias), [bias, bias])
    assert np.isnan(hal.layernorm(np.full((2, 4), 7, F32), eps=0.0)).all()


@pytest.mark.parametrize("function", [hal.softmax, hal.layernorm, hal.rmsnorm])
def test_in_place_gives_what_a_new_array_would(function: Any) -> None:
    x = np.random.default_rng(0).standard_normal((3, 40)).astype(F32)
    want = function(x)
    assert function(x, out=x) is x
    np.testing.assert_array_equal(x, want)


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("inner", lambda: hal.matmul(x34, x34), hal.ShapeError, r"last axis of a \(4\).*\(3\).*a is float32\[3x4\]"),
    ("0-d", lambda: hal.matmul(np.ones((), F32), x34), hal.ShapeError, "at least one dimension"),
    ("batch", lambda: hal.matmul(np.ones((2, 3, 4), F32), np.ones((3, 4, 5), F32)), hal.ShapeError, "broadcast"),
    ("mixed", lambda: hal.matmul(x34, x45.astype(np.float64)), hal.DTypeError, "same dtype.*float64"),
    ("integers", lambda: hal.matmul(x34.astype(np.int64), x45), hal.DTypeError, "int64.*supported"),
    ("complex", lambda: hal.softmax(x34.astype(np.complex64)), hal.DTypeError, "complex64"),
    ("bool", lambda: hal.softmax(x34 > 0), hal.DTypeError, "x has to be float64"),
    ("object", lambda: hal.softmax(x34.astype(object)), hal.DTypeError, "not supported"),
    ("swapped bytes", lambda: hal.softmax(x34.astype(">f4")), hal.DTypeError, "byte order.*newbyteorder"),
    ("list", lambda: hal.matmul(x34, [[1.0]]), hal.ArgumentError, "b: list is no array"),
    ("none", lambda: hal.matmul(x34, None), hal.ArgumentError, "b: NoneType is no array"),
    ("masked array", lambda: hal.softmax(np.ma.array(x34)), hal.ArgumentError, "filled"),
    ("matrix", lambda: hal.softmax(np.matrix(x34)), hal.ArgumentError, "np.asarray"),
    ("bias shape", lambda: hal.matmul(x34, x45, bias=np.ones(4, F32)), hal.ShapeError, r"bias.*\(3, 5\)"),
    ("bias dtype", lambda: hal.matmul(x34, x45, bias=np.ones(5, np.float16)), hal.DTypeError, "bias has to be float32"),
    ("activation", lambda: hal.matmul(x34, x45, activation="tanh"), hal.OptionError, "one of.*'tanh'"),
    ("precision", lambda: hal.matmul(x34, x45, precision="fp8"), hal.OptionError, "tf32"),
    ("alpha", lambda: hal.matmul(x34, x45, alpha=True), hal.ArgumentError, "real number"),
    ("out_dtype", lambda: hal.matmul(x34, x45, out_dtype="float16"), hal.DTypeError, "out_dtype has to be float32"),
    (
        "int8 alpha",
        lambda: hal.matmul(np.ones((1, 1), np.int8), np.ones((1, 1), np.int8), alpha=2.0),
        hal.DTypeError,
        "alpha",
    ),
    ("axis range", lambda: hal.softmax(x34, axis=2), hal.OptionError, "axis 2.*2 dimensions"),
    ("axis float", lambda: hal.softmax(x34, axis=1.0), hal.ArgumentError, "axis has to be an integer"),
    ("axis bool", lambda: hal.softmax(x34, axis=True), hal.ArgumentError, "integer"),
    ("axis none", lambda: hal.softmax(x34, axis=None), hal.ArgumentError, "integer"),
    ("axis list", lambda: hal.layernorm(x34, axis=[0, 1]), hal.ArgumentError, "integer"),
    ("axis gap", lambda: hal.layernorm(np.ones((2, 3, 4), F32), axis=(0, 2)), hal.OptionError, "trailing"),
    ("mask shape", lambda: hal.softmax(x34, mask=np.ones((4, 4), np.bool_)), hal.ShapeError, "mask.*broadcast"),
    ("mask dtype", lambda: hal.softmax(x34, mask=np.ones(4, np.int8)), hal.DTypeError, "mask has to be bool"),
    ("weight shape", lambda: hal.layernorm(x34, np.ones(3, F32)), hal.ShapeError, r"weight.*\(4,\)"),
    ("weight broadcast", lambda: hal.rmsnorm(x34, np.ones(1, F32)), hal.ShapeError, "no broadcasting"),
    ("weight dtype", lambda: hal.layernorm(x34, np.ones(4, np.float16)), hal.DTypeError, "weight has to be float32"),
    ("residual shape", lambda: hal.layernorm(x34, residual=x45), hal.ShapeError, "residual"),
    ("residual dtype", lambda: hal.rmsnorm(x34, residual=x34.astype(np.float16)), hal.DTypeError, "residual"),
    ("stats", lambda: hal.layernorm(x34, return_stats=1), hal.ArgumentError, "True or False"),
    ("portable", lambda: _portable(), hal.UnsupportedError, "portable"),
    ("device", lambda: hal.softmax(x34, device="abacus:0"), hal.BackendUnavailable, "'abacus'.*cpu"),
    ("device type", lambda: hal.softmax(x34, device=3), hal.ArgumentError, "named by a string"),
    ("kinds", lambda: hal.matmul(x34, hal.asarray(x45)), hal.ArgumentError, "b is a hal.Array"),
    ("elsewhere", lambda: hal.softmax(hal.asarray(x34), device="opencl:99"), hal.HalError, "opencl"),
]


def _portable() -> None:
    with hal.use(deterministic="portable"):
        hal.softmax(x34)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize(("call", "kind", "text"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_call_says_what_was_wanted(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize(
    ("out", "kind", "text"),
    [
        (np.zeros((3, 5), F32), hal.ShapeError, r"shape \(3, 4\)"),
        (np.zeros((3, 4), np.float64), hal.DTypeError, "float32"),
        (np.broadcast_to(F32(0), (3, 4)), hal.ShapeError, "share memory"),
        ([0], hal.ArgumentError, "no array"),
        ((np.zeros((3, 4), F32),), hal.ArgumentError, "one array"),
    ],
)
def test_a_wrong_out_is_refused(out: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        hal.softmax(x34, out=out)


def test_a_read_only_out_is_not_written_even_after_a_good_call() -> None:
    out = np.zeros((3, 4), F32)
    hal.softmax(x34, out=out)
    before = out.copy()
    out.flags.writeable = False
    with pytest.raises(hal.ArgumentError, match="read-only"):
        hal.softmax(x34 * 2, out=out)
    np.testing.assert_array_equal(out, before)


def test_an_option_of_a_wrong_type_is_refused_even_after_an_equal_good_one() -> None:
    hal.softmax(x34, axis=1)
    with pytest.raises(hal.ArgumentError, match="integer"):
        hal.softmax(x34, axis=True)


def test_use_refuses_unknown_choices() -> None:
    for choice in ({"precision": "fp8"}, {"deterministic": "yes"}, {"fallback": "silent"}):
        with pytest.raises(hal.OptionError, match="has to be one of"), hal.use(**choice):  # type: ignore[arg-type]
            pass


def test_every_error_is_also_the_builtin_one_expects() -> None:
    assert issubclass(hal.ShapeError, ValueError) and issubclass(hal.DTypeError, TypeError)
    assert issubclass(hal.UnsupportedError, NotImplementedError) and issubclass(hal.DeviceMemoryError, MemoryError)
    assert all(
        issubclass(getattr(hal, name), hal.HalError) for name in hal.__all__ if name.endswith(("Error", "Result"))
    )


@pytest.mark.parametrize("name", list(OPERATORS))
def test_the_public_signature_has_the_operator_s_options_and_defaults(name: str) -> None:
    """An operator's options stand in two places, for readers of each: they have to agree."""
    parameters = inspect.signature(getattr(hal, name)).parameters
    options = OPERATORS[name].options
    assert {key: parameters[key].default for key in options} == dict(options)
    assert set(parameters) == {*options, *OPERATORS[name].roles, "out", "device"}


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: hal.matmul(x34, x45, alpha=10**400), hal.OptionError),
        (lambda: hal.matmul(x34, x45, activation=np.array([1, 2])), hal.OptionError),  # type: ignore[arg-type]
        (lambda: hal.softmax(x34, axis=np.array([1])), hal.ArgumentError),
        (lambda: hal.layernorm(x34, axis=(True,)), hal.ArgumentError),
        (lambda: hal.matmul(x34, x45, out_dtype="f4,,("), hal.DTypeError),
        (lambda: hal.softmax(x34, device="cpu:" + "9" * 5000), hal.BackendUnavailable),
        (lambda: hal.empty((2,), None), hal.DTypeError),
        (lambda: hal.empty((2**62,), "float32"), hal.DeviceMemoryError),
        (lambda: hal.matmul(np.broadcast_to(x34, (2**40, 3, 4)), x45), hal.DeviceMemoryError),
        (lambda: hal.asarray(x34, dtype="int8"), hal.DTypeError),
        (lambda: hal.asarray(x34).transpose(5, 0), hal.OptionError),
        (lambda: hal.asarray(x34).reshape(3.0, 4), hal.ArgumentError),  # type: ignore[arg-type]
        (lambda: hal.asarray(x34)[::0], hal.OptionError),
        (lambda: hal.asarray(x34)[9], hal.OutOfRangeError),
    ],
)  # fmt: skip
def test_odd_arguments_are_errors_of_hal(call: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        call()


def test_an_axis_of_a_wrong_type_in_a_tuple_is_refused_whatever_came_before() -> None:
    hal.layernorm(x34, axis=(1,))
    with pytest.raises(hal.ArgumentError):
        hal.layernorm(x34, axis=(True,))


def test_shapes_are_integers_of_any_library() -> None:
    assert hal.empty(np.int64(3), "float32").shape == hal.empty((np.int64(3),), "float32").shape == (3,)  # type: ignore[arg-type]
    assert hal.matmul(hal.asarray(x34[0]), hal.asarray(x34[1])).numpy().shape == ()
