// Recurrent layers and embedding tables in isogrid._native.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <optional>

#include "bindings/python.hpp"
#include "bindings/python_matrix.hpp"
#include "bindings/torch_threads.hpp"
#include "isogrid/embedding.hpp"
#include "isogrid/recurrent.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

const float* bias_of(std::int64_t rows, const std::optional<Array<float>>& bias) {
    if (bias && bias->size() != static_cast<std::size_t>(rows)) check(isogrid::Status::wrong_shape);
    return bias ? bias->data() : nullptr;
}

// Addresses come as numbers, as in python_engine.cpp.
template <class T>
T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

class PythonRecurrent {
  public:
    PythonRecurrent(int cell, bool reverse, std::int64_t columns, std::int64_t units,
                    const Array<std::int64_t>& input_row_begin, const Array<std::int32_t>& input_column,
                    const Numbers& input_values, const Scales& input_scales,
                    const Array<std::int64_t>& recurrent_row_begin, const Array<std::int32_t>& recurrent_column,
                    const Numbers& recurrent_values, const Scales& recurrent_scales,
                    const std::optional<Array<float>>& input_bias, const std::optional<Array<float>>& recurrent_bias) {
        if (units < 1 || units > isogrid::max_matrix_side) check(isogrid::Status::shape_out_of_range);
        const auto kind = static_cast<isogrid::Cell>(cell);
        const std::int64_t rows = (kind == isogrid::Cell::lstm ? 4 : 3) * units;
        const isogrid::RecurrentWeights weights{
            kind,
            reverse,
            matrix_of(rows, columns, input_row_begin, input_column, input_values, input_scales),
            matrix_of(rows, units, recurrent_row_begin, recurrent_column, recurrent_values, recurrent_scales),
            bias_of(rows, input_bias),
            bias_of(rows, recurrent_bias)};
        check(isogrid::Recurrent::create(weights, &operation_));
    }
    PythonRecurrent(const PythonRecurrent&) = delete;
    PythonRecurrent& operator=(const PythonRecurrent&) = delete;
    ~PythonRecurrent() {
        if (operation_ != nullptr) isogrid::Recurrent::destroy(operation_);
    }

    void run(std::uintptr_t x, std::int64_t steps, std::int64_t batch, std::uintptr_t batch_sizes, std::uintptr_t h,
             std::uintptr_t c, std::uintptr_t last_h, std::uintptr_t last_c, std::uintptr_t y, std::int64_t stride) {
        const isogrid::Sequences sequences{at<const float>(x), steps, batch, at<const std::int64_t>(batch_sizes)};
        const isogrid::States states{at<const float>(h), at<const float>(c), at<float>(last_h), at<float>(last_c)};
        isogrid::Status status;
        {
            nb::gil_scoped_release release;
            status = operation_->run(torch_executor(), sequences, states, at<float>(y), stride);
        }
        check(status);
    }

  private:
    isogrid::Recurrent* operation_ = nullptr;
};

class PythonEmbedding {
  public:
    PythonEmbedding(std::int64_t rows, std::int64_t columns, const Array<std::int64_t>& row_begin,
                    const Array<std::int32_t>& column, const Numbers& values, const Scales& scales) {
        check(isogrid::Embedding::create(matrix_of(rows, columns, row_begin, column, values, scales), &operation_));
    }
    PythonEmbedding(const nb::ndarray<const std::int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>& codes,
                    const Array<float>& scales) {
        constexpr auto most = static_cast<std::size_t>(isogrid::max_matrix_side);
        if (codes.shape(0) > most || codes.shape(1) > most) check(isogrid::Status::shape_out_of_range);
        if (scales.size() != codes.shape(0)) check(isogrid::Status::wrong_scales);
        const isogrid::CodedRows table{static_cast<std::int32_t>(codes.shape(0)),
                                       static_cast<std::int32_t>(codes.shape(1)),
                                       {codes.data(), codes.size()},
                                       scales.data()};
        check(isogrid::Embedding::create(table, &operation_));
    }
    PythonEmbedding(const PythonEmbedding&) = delete;
    PythonEmbedding& operator=(const PythonEmbedding&) = delete;
    ~PythonEmbedding() {
        if (operation_ != nullptr) isogrid::Embedding::destroy(operation_);
    }

    void run(std::uintptr_t indices, std::int64_t count, std::uintptr_t y) const {
        isogrid::Status status;
        {
            nb::gil_scoped_release release;
            status = operation_->run(torch_executor(), at<const std::int64_t>(indices), count, at<float>(y));
        }
        check(status);
    }

  private:
    isogrid::Embedding* operation_ = nullptr;
};

}  // namespace

void add_recurrent(nb::module_& module) {
    nb::class_<PythonRecurrent>(module, "Recurrent", "One direction of one sparse LSTM (cell 0) or GRU (cell 1) layer.")
        .def(nb::init<int, bool, std::int64_t, std::int64_t, const Array<std::int64_t>&, const Array<std::int32_t>&,
                      const Numbers&, const Scales&, const Array<std::int64_t>&, const Array<std::int32_t>&,
                      const Numbers&, const Scales&, const std::optional<Array<float>>&,
                      const std::optional<Array<float>>&>(),
             "cell"_a, "reverse"_a, "columns"_a, "units"_a, "input_row_begin"_a.noconvert(),
             "input_column"_a.noconvert(), "input_values"_a.noconvert(), "input_scales"_a.none(),
             "recurrent_row_begin"_a.noconvert(), "recurrent_column"_a.noconvert(), "recurrent_values"_a.noconvert(),
             "recurrent_scales"_a.none(), "input_bias"_a.none(), "recurrent_bias"_a.none())
        .def("run", &PythonRecurrent::run, "x"_a, "steps"_a, "batch"_a, "batch_sizes"_a, "h"_a, "c"_a, "last_h"_a,
             "last_c"_a, "y"_a, "stride"_a,
             "Addresses of float32 data (batch_sizes: int64, or 0): x [tokens][columns], states [batch][units], of "
             "which h and c may be 0 for zeros, and y, a token's result each stride floats.");
    nb::class_<PythonEmbedding>(module, "Embedding", "A table whose rows are stored sparse, or as int8 codes.")
        .def(nb::init<std::int64_t, std::int64_t, const Array<std::int64_t>&, const Array<std::int32_t>&,
                      const Numbers&, const Scales&>(),
             "rows"_a, "columns"_a, "row_begin"_a.noconvert(), "column"_a.noconvert(), "values"_a.noconvert(),
             "scales"_a.none())
        .def(nb::init<const nb::ndarray<const std::int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>&,
                      const Array<float>&>(),
             "codes"_a.noconvert(), "scales"_a.noconvert())
        .def("run", &PythonEmbedding::run, "indices"_a, "count"_a, "y"_a,
             "Addresses: int64 indices, and y [count][columns] of float32.");
}
