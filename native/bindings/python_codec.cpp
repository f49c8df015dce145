// The codecs in isogrid._native.
#include "bindings/python.hpp"

#include <nanobind/ndarray.h>

#include <cstdint>
#include <memory>

#include "isogrid/bitmap.hpp"
#include "isogrid/rice.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using PositionsIn = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using PositionsOut = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>>;

isogrid::Positions view(const PositionsIn& positions) {
    return {positions.data(), positions.size()};
}

isogrid::Bytes view(const nb::bytes& data) {
    return {static_cast<const std::uint8_t*>(data.data()), data.size()};
}

nb::bytes new_bytes(std::uint64_t size) {
    PyObject* raw = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
    if (raw == nullptr) throw nb::python_error();
    return nb::steal<nb::bytes>(raw);
}

// Only for bytes that no one else has seen yet.
isogrid::MutableBytes writable(const nb::bytes& fresh) {
    return {reinterpret_cast<std::uint8_t*>(PyBytes_AS_STRING(fresh.ptr())), fresh.size()};
}

nb::bytes rice_encode(const PositionsIn& positions, std::int64_t size) {
    isogrid::RicePlan plan{};
    isogrid::Status status;
    {
        nb::gil_scoped_release release;
        status = isogrid::rice_plan(view(positions), size, &plan);
    }
    check(status);
    nb::bytes out = new_bytes(plan.bytes);
    const isogrid::MutableBytes to = writable(out);
    {
        nb::gil_scoped_release release;
        status = isogrid::rice_encode(view(positions), plan, to);
    }
    check(status);
    return out;
}

nb::bytes bitmap_encode(const PositionsIn& positions, std::int64_t size) {
    std::uint64_t bytes = 0;
    check(isogrid::bitmap_plan(size, &bytes));
    nb::bytes out = new_bytes(bytes);
    const isogrid::MutableBytes to = writable(out);
    isogrid::Status status;
    {
        nb::gil_scoped_release release;
        status = isogrid::bitmap_encode(view(positions), size, to);
    }
    check(status);
    return out;
}

using Check = isogrid::Status (*)(isogrid::Bytes, std::int64_t, std::int64_t) noexcept;
using Decode = isogrid::Status (*)(isogrid::Bytes, std::int64_t, isogrid::MutablePositions) noexcept;

template <Check check_claims, Decode decode>
PositionsOut decode_positions(const nb::bytes& data, std::int64_t count, std::int64_t size) {
    const isogrid::Bytes from = view(data);
    check(check_claims(from, count, size));
    const auto length = static_cast<std::size_t>(count);
    std::unique_ptr<std::int64_t[]> positions(new std::int64_t[length]);
    isogrid::Status status;
    {
        nb::gil_scoped_release release;
        status = decode(from, size, {positions.get(), length});
    }
    check(status);
    std::int64_t* raw = positions.get();
    nb::capsule owner(raw, [](void* memory) noexcept { delete[] static_cast<std::int64_t*>(memory); });
    positions.release();
    return PositionsOut(raw, {length}, owner);
}

}  // namespace

void add_codec(nb::module_& module) {
    // No implicit conversion: a float array that is silently rounded to positions would be a wrong file.
    module.def("rice_encode", &rice_encode, "positions"_a.noconvert(), "size"_a,
               "Golomb-Rice code strictly ascending int64 positions of a tensor of `size` weights.");
    module.def("rice_decode", &decode_positions<isogrid::rice_check, isogrid::rice_decode>, "data"_a, "count"_a,
               "size"_a, "The int64 positions behind `rice_encode`'s bytes; ValueError for anything else.");
    module.def("bitmap_encode", &bitmap_encode, "positions"_a.noconvert(), "size"_a,
               "One bit a weight, least significant bit first, for strictly ascending int64 positions.");
    module.def("bitmap_decode", &decode_positions<isogrid::bitmap_check, isogrid::bitmap_decode>, "data"_a, "count"_a,
               "size"_a, "The int64 positions behind `bitmap_encode`'s bytes; ValueError for anything else.");
}
