"""Tensor maps, swizzles and wgmma's descriptors and fragments, each against a loop that follows the documents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hal.errors import HalError, OptionError, UnsupportedError
from hal_nvidia_ptx.emulator import boxes
from hal_nvidia_ptx.emulator import descriptors as wg
from hal_nvidia_ptx.emulator.swizzle import SPANS, chunk_order, swizzled
from hal_nvidia_ptx.emulator.tensormap import TensorMap, of_driver


def simple_map(**changes):
    given_ = {
        "dtype": "bf16",
        "address": 0x1000,
        "shape": (100, 50),
        "strides": (256,),
        "box": (64, 8),
        "element_strides": (1, 1),
        "swizzle": 128,
    }
    return TensorMap(**{**given_, **changes})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"dtype": "s16"}, "dtype must be one of u8"),
        ({"shape": ()}, "rank must be 1 to 5"),
        ({"shape": (1,) * 6}, "rank must be 1 to 5"),
        ({"strides": ()}, "rank 2 needs 1 strides"),
        ({"box": (64,)}, "box needs 2 extents"),
        ({"element_strides": (1,)}, "rank 2 needs 2 element strides"),
        ({"address": 0x1008}, "address must be a multiple of 16"),
        ({"shape": (0, 50)}, "dimension 0 must have 1 to 2"),
        ({"shape": (100, 2**32 + 1)}, "dimension 1 must have 1 to 2"),
        ({"strides": (200,)}, "stride of dimension 1 must be a multiple of 16 bytes, got 200"),
        ({"strides": (2**40,)}, "below 2^40"),
        ({"box": (64, 257)}, "box must have 1 to 256 elements in dimension 1"),
        ({"box": (12, 8), "swizzle": 0}, "multiple of 16 bytes, got 24 bytes"),
        ({"box": (64, 8), "swizzle": 64}, "fit the swizzle's span of 64 bytes, got 128 bytes"),
        ({"element_strides": (1, 9)}, "element stride of dimension 1 must be 1 to 8"),
        ({"swizzle": 16}, "swizzle must be 0, 32, 64 or 128"),
        ({"promotion": 32}, "L2 promotion"),
        ({"fill": "one"}, "fill must be zero or nan"),
        ({"dtype": "u16", "fill": "nan"}, "needs a floating-point dtype"),
    ],
)
def test_a_map_that_the_driver_refuses_is_refused_with_its_rule(changes, rule):
    with pytest.raises(OptionError) as error:
        simple_map(**changes)
    assert rule in str(error.value)


def test_the_drivers_numbers_name_the_same_map():
    by_number = of_driver(9, 0x1000, (100, 50), (256,), (64, 8), (1, 1), 0, 3, 3, 0)
    assert by_number == simple_map(promotion=256)
    for bad in ({"dtype": 13}, {"swizzle": 4}, {"interleave": 1}):
        with pytest.raises(UnsupportedError):
            of_driver(
                **{"dtype": 9, "address": 16, "shape": (8,), "strides": (), "box": (8,), "element_strides": (1,), **bad}
            )
    with pytest.raises(OptionError, match="fill"):
        of_driver(9, 16, (8,), (), (8,), (1,), fill=2)


maps = st.integers(1, 5).flatmap(
    lambda rank: st.builds(
        TensorMap,
        st.sampled_from(["u8", "bf16", "f32", "f64", "tf32_ftz"]),
        st.integers(1, 2**40).map(lambda line: 16 * line),
        st.tuples(*[st.integers(1, 2**32)] * rank),
        st.tuples(*[st.integers(0, 2**35).map(lambda line: 16 * line)] * (rank - 1)),
        st.tuples(st.just(16), *[st.integers(1, 256)] * (rank - 1)),
        st.tuples(*[st.integers(1, 8)] * rank),
        st.sampled_from([0, 128]),
        st.sampled_from([0, 64, 128, 256]),
        st.just("zero"),
    )
)


@given(maps)
@settings(max_examples=100, deadline=None)
def test_the_128_bytes_carry_the_whole_map(tensor):
    data = tensor.encode()
    assert len(data) == 128
    assert TensorMap.decode(data) == tensor


def test_bytes_that_are_no_map_are_refused():
    with pytest.raises(HalError, match="cuTensorMapEncodeTiled"):
        TensorMap.decode(bytes(128))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_window_is_the_part_of_the_box_that_the_tensor_has(data):
    """Every element of the box, one by one: inside the tensor exactly where the window has it, at the same address."""
    rank = data.draw(st.integers(1, 4))
    shape = data.draw(st.tuples(*[st.integers(1, 12)] * rank))
    strides = tuple(16 * data.draw(st.integers(1, 100)) for _ in shape[1:])
    box = (4, *data.draw(st.tuples(*[st.integers(1, 5)] * (rank - 1))))
    steps = data.draw(st.tuples(*[st.integers(1, 3)] * rank))
    corner = data.draw(st.tuples(*[st.integers(-8, 14)] * rank))
    tensor = TensorMap("f32", 1 << 20, shape, strides, box, steps)
    window = tensor.window(corner)
    assert window.box == tuple(reversed(tensor.counts))

    seen = {}
    for index in np.ndindex(*window.shape):
        place = tuple(b + i for b, i in zip(window.begin, index, strict=True))
        seen[place] = window.address + sum(i * s for i, s in zip(index, window.strides, strict=True))
    expected = {}
    for place in np.ndindex(*window.box):
        used = [1, *steps[1:]]
        position = [c + i * s for c, i, s in zip(corner, reversed(place), used, strict=True)]
        if all(0 <= p < extent for p, extent in zip(position, shape, strict=True)):
            expected[place] = (1 << 20) + sum(p * s for p, s in zip(position, (4, *strides), strict=True))
    assert seen == expected
    assert window.empty == (not expected)


def test_a_box_counts_bytes_of_what_lies_outside_too():
    tensor = simple_map(box=(64, 8), element_strides=(1, 3))
    assert tensor.counts == (64, 3)
    assert (tensor.row, tensor.rows, tensor.box_bytes, tensor.pitch) == (128, 3, 384, 128)
    assert simple_map(box=(16, 8)).pitch == 128


@pytest.mark.parametrize(("span", "bits"), [(128, (4, 5, 6)), (64, (4, 5)), (32, (4,)), (0, ())])
def test_swizzles_xor_low_address_bits_with_those_three_above(span, bits):
    for address in (*range(0, 4096, 8), 0x12345678):
        expected = address
        for bit in bits:
            expected ^= (address >> bit + 3 & 1) << bit
        assert swizzled(np.array([address]), span)[0] == expected


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("line", [0, 3])
def test_the_chunk_order_of_a_tile_is_the_swizzle_of_its_addresses(span, line):
    base = 4096 + 128 * line
    order = chunk_order(line, 40, span)
    assert [base + 16 * int(chunk) for chunk in order[:40]] == [
        int(swizzled(np.array([base + 16 * chunk]), span)[0]) for chunk in range(40)
    ]
    assert (order[order] == np.arange(40)).all()


def test_descriptors_have_the_documented_bits():
    bits = 0x4000004000010000 | (0x8400 >> 4)
    decoded = wg.Descriptor.decode(bits)
    assert decoded == wg.Descriptor(start=0x8400, leading=16, stride=1024, base=0, span=128)
    assert decoded.encode() == bits
    assert [wg.Descriptor.decode(code << 62).span for code in range(4)] == [0, 128, 64, 32]


def stored(matrix, place, size):
    """Shared memory with matrix[r, k] (unsigned of `size` bytes) at byte address place(r, k)."""
    memory = np.zeros(1 << 17, np.uint8)
    for row, k in np.ndindex(*matrix.shape):
        where = place(row, k)
        memory[where : where + size] = np.frombuffer(matrix[row, k].tobytes(), np.uint8)
    return memory


@pytest.mark.parametrize("span", [0, 32, 64, 128])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("rows", [8, 64, 72])
def test_k_major_operands_are_found_where_a_swizzled_tile_has_them(span, size, rows):
    """A tile of `rows` lines, each `span` bytes of K; the second 32 bytes of K, where the line has them."""
    base, step = 5 * 1024, 32 if span > 32 else 0
    matrix = np.random.default_rng(0).integers(0, 200, (rows, 32 // size)).astype(f"u{size}")

    def place(row, k):
        byte = step + k * size
        if span:
            return int(swizzled(np.array([base + row * span + byte]), span)[0])
        core = row // 8 * 128 + byte // 16 * 2048  # core matrices of 8 rows x 16 bytes, rows first
        return base + core + row % 8 * 16 + byte % 16

    descriptor = wg.Descriptor(base + step, 16 if span else 2048, 8 * span or 128, 0, span)
    where = wg.chunks(descriptor, rows, mn_major=False)
    assert where.shape == (rows, 2)
    found = wg.gather(stored(matrix, place, size), where, False, size)
    np.testing.assert_array_equal(found, matrix)


@pytest.mark.parametrize("span", [0, 32, 64, 128])
@pytest.mark.parametrize("rows", [8, 64, 128, 200])
def test_mn_major_operands_are_found_where_a_swizzled_tile_has_them(span, rows):
    """Lines of `span` bytes of M or N, a line per k, 64 k in a tile; the second 16 k of it."""
    base, per_line = 8 * 1024, span // 2
    matrix = np.random.default_rng(1).integers(0, 60000, (rows, 16)).astype(np.uint16)

    def place(row, k):
        k += 16
        if span:
            line = base + row // per_line * (64 * span) + k * span
            return int(swizzled(np.array([line + row % per_line * 2]), span)[0])
        return base + row // 8 * 1024 + k // 8 * 128 + k % 8 * 16 + row % 8 * 2

    if span:
        descriptor = wg.Descriptor(base + 16 * span, 64 * span, 8 * span, 0, span)
    else:
        descriptor = wg.Descriptor(base + 256, 128, 1024, 0, span)
    where = wg.chunks(descriptor, rows, mn_major=True)
    assert where.shape == (16, rows // 8)
    np.testing.assert_array_equal(wg.gather(stored(matrix, place, 2), where, True, 2), matrix)


def test_the_base_offset_moves_the_pattern_to_an_unaligned_tile():
    base = 1024 + 3 * 128
    where = wg.chunks(wg.Descriptor(base, 16, 1024, 3, 128), 8, mn_major=False)
    assert [int(row[0]) * 16 - base for row in where] == [row * 128 + (row << 4) for row in range(8)]


@pytest.mark.parametrize("n", [8, 24, 256])
def test_accumulators_lie_in_registers_as_documented(n):
    matrix = np.arange(2 * 64 * n, dtype=np.float32).reshape(2, 64, n)
    registers = wg.d_registers(matrix)
    assert registers.shape == (n // 2, 2, 128)
    for group, lane, register in [(0, 0, 0), (1, 37, 1), (0, 127, n // 2 - 1), (1, 66, 2)]:
        warp, g, t = lane // 32, lane % 32 // 4, lane % 4
        row = 16 * warp + g + 8 * (register % 4 // 2)
        column = 8 * (register // 4) + 2 * t + register % 2
        assert registers[register, group, lane] == matrix[group, row, column]
    np.testing.assert_array_equal(wg.d_matrix(registers), matrix)


def test_half_accumulators_are_packed_in_pairs():
    matrix = np.random.default_rng(2).normal(size=(1, 64, 16)).astype(np.float16)
    registers = wg.packed(matrix)
    assert registers.shape == (4, 1, 128)
    low, high = matrix[0, 16 + 1 + 8, 8 + 2 * 3], matrix[0, 16 + 1 + 8, 8 + 2 * 3 + 1]
    word = registers[3, 0, 32 + 4 + 3]
    assert word == int(low.view(np.uint16)) | int(high.view(np.uint16)) << 16
    np.testing.assert_array_equal(wg.unpacked(registers), matrix)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_from_registers_has_four_bytes_of_k_in_each(size):
    matrix = np.random.default_rng(3).integers(0, 250, (2, 64, 32 // size)).astype(f"u{size}")
    as_bytes = matrix.view(np.uint8)
    registers = np.zeros((4, 2, 128), np.uint32)
    for register, group, lane in np.ndindex(4, 2, 128):
        row = 16 * (lane // 32) + lane % 32 // 4 + 8 * (register % 2)
        first = 4 * (lane % 4) + 16 * (register // 2)
        registers[register, group, lane] = as_bytes[group, row, first : first + 4].copy().view(np.uint32)[0]
    np.testing.assert_array_equal(wg.a_matrix(registers, size), matrix)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_box_is_loaded_and_stored_element_by_element(data):
    """Against a loop over all elements of a box of up to three dimensions, that may hang over every edge."""
    swizzle = data.draw(st.sampled_from(SPANS))
    rank = data.draw(st.integers(1, 3))
    inner = data.draw(st.sampled_from([8, 16, 32, 64] if swizzle in (0, 128) else [8, 16]))
    extents = (inner, *data.draw(st.tuples(*[st.integers(1, 5)] * (rank - 1))))
    shape = data.draw(st.tuples(st.integers(1, 70), *[st.integers(1, 6)] * (rank - 1)))
    strides = tuple(np.cumprod([160, *shape[1:]])[: rank - 1].tolist())
    corner = (data.draw(st.integers(-9, 70)), *data.draw(st.tuples(*[st.integers(-2, 6)] * (rank - 1))))
    at = 1024 + 128 * data.draw(st.integers(0, 7))
    tensor = TensorMap("u16", 1 << 20, shape, strides, extents, (1,) * rank, swizzle)
    memory = np.random.default_rng(4).integers(1, 255, 1 << 13).astype(np.uint8)
    window = tensor.window(corner)

    def places():
        for place in np.ndindex(*reversed(extents)):
            position = [c + i for c, i in zip(corner, reversed(place), strict=True)]
            row = int(np.ravel_multi_index(place[:-1], tuple(reversed(extents[1:])))) if rank > 1 else 0
            address = at + row * max(2 * inner, swizzle) + 2 * place[-1]
            inside = all(0 <= p < extent for p, extent in zip(position, shape, strict=True))
            source = sum(p * s for p, s in zip(position, (2, *strides), strict=True))
            yield int(swizzled(np.array([address]), swizzle)[0]), inside, source

    shared = np.full(1 << 14, 7, np.uint8)
    boxes.load(tensor, window, memory, window.address - (1 << 20), shared, at)
    for address, inside, source in places():
        expected = memory[source : source + 2] if inside else [0, 0]
        assert list(shared[address : address + 2]) == list(expected)

    shared[:] = np.random.default_rng(5).integers(0, 255, len(shared))
    target, expected = np.zeros_like(memory), np.zeros_like(memory)
    boxes.store(tensor, window, boxes.box(tensor, shared, at), target, window.address - (1 << 20))
    for address, inside, source in places():
        if inside:
            expected[source : source + 2] = shared[address : address + 2]
    np.testing.assert_array_equal(target, expected)


def test_a_float_box_can_be_filled_with_nan_and_flushed():
    tensor = TensorMap("f32_ftz", 1 << 20, (2,), (), (4,), (1,), fill="nan")
    memory = np.array([1e-40, 2.0], np.float32).view(np.uint8)
    shared = np.zeros(64, np.uint8)
    boxes.load(tensor, tensor.window((0,)), memory, 0, shared, 16)
    np.testing.assert_array_equal(shared[16:32].view(np.float32), [0, 2, np.nan, np.nan])


@pytest.mark.parametrize(
    ("operation", "kind", "old", "new", "result"),
    [
        ("add", "f32", 1.5, 2.0, 3.5),
        ("min", "s32", -4, 3, -4),
        ("max", "u32", 2**32 - 1, 3, 2**32 - 1),
        ("xor", "b64", 6, 3, 5),
        ("inc", "u32", 7, 7, 0),
        ("inc", "u32", 6, 7, 7),
        ("dec", "u32", 0, 7, 7),
        ("dec", "u32", 5, 7, 4),
        ("max", "f16", 1.0, 2.0, 2.0),
    ],
)
def test_reductions(operation, kind, old, new, result):
    dtype = {"f32": "f4", "s32": "i4", "u32": "u4", "b64": "u8", "f16": "f2"}[kind]
    bits = [np.array([each] * 8, dtype).view(np.uint8) for each in (old, new)]
    assert list(boxes.combine(operation, kind, *bits).view(dtype)) == [result] * 8


def test_bfloat16_sums_are_rounded_to_bfloat16():
    one, small = (np.array([bits] * 8, np.uint16).view(np.uint8) for bits in (0x3F80, 0x3B80))  # 1 and 2^-8
    assert set(boxes.combine("add", "bf16", one, small).view(np.uint16).tolist()) == {0x3F80}
