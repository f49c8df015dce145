// The sparse operations in isogrid._native.
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "bindings/python.hpp"
#include "bindings/python_matrix.hpp"
#include "bindings/torch_threads.hpp"
#include "isogrid/convolution.hpp"
#include "isogrid/linear.hpp"
#include "isogrid/max_pool.hpp"
#include "isogrid/targets.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

isogrid::Epilogue epilogue_of(std::int64_t rows, const std::optional<Array<float>>& bias, int activation, float low,
                              float high) {
    if (bias && bias->size() != static_cast<std::size_t>(rows)) check(isogrid::Status::wrong_shape);
    return {bias ? bias->data() : nullptr, static_cast<isogrid::Activation>(activation), low, high};
}

// Addresses come as numbers: a tensor's data_ptr() is much cheaper than any view of it.
const float* floats(std::uintptr_t address) {
    return reinterpret_cast<const float*>(address);
}

float* mutable_floats(std::uintptr_t address) {
    return reinterpret_cast<float*>(address);
}

class PythonLinear {
  public:
    PythonLinear(std::int64_t rows, std::int64_t columns, const Array<std::int64_t>& row_begin,
                 const Array<std::int32_t>& column, const Numbers& values, const Scales& scales,
                 const std::optional<Array<float>>& bias, int activation, float low, float high, bool skip_zeros) {
        const auto matrix = matrix_of(rows, columns, row_begin, column, values, scales);
        const auto epilogue = epilogue_of(rows, bias, activation, low, high);
        check(isogrid::Linear::create(matrix, epilogue, skip_zeros, &operation_));
    }
    PythonLinear(const PythonLinear&) = delete;
    PythonLinear& operator=(const PythonLinear&) = delete;
    ~PythonLinear() {
        if (operation_ != nullptr) isogrid::Linear::destroy(operation_);
    }

    void run(std::uintptr_t x, std::int64_t tokens, std::uintptr_t residual, std::uintptr_t y) {
        isogrid::Status status;
        {
            nb::gil_scoped_release release;
            status = operation_->run(torch_executor(), floats(x), tokens, floats(residual), mutable_floats(y));
        }
        check(status);
    }

  private:
    isogrid::Linear* operation_ = nullptr;
};

class PythonConvolution {
  public:
    PythonConvolution(std::int64_t rows, std::int64_t columns, const Array<std::int64_t>& row_begin,
                      const Array<std::int32_t>& column, const Numbers& values, const Scales& scales,
                      const std::optional<Array<float>>& bias, int activation, float low, float high, int groups,
                      int channels, std::pair<int, int> kernel, std::pair<int, int> stride, std::array<int, 4> padding,
                      std::pair<int, int> dilation) {
        const auto matrix = matrix_of(rows, columns, row_begin, column, values, scales);
        const auto epilogue = epilogue_of(rows, bias, activation, low, high);
        const isogrid::ConvolutionShape shape{
            channels,   1,          1,          kernel.first, kernel.second,  stride.first,   stride.second,
            padding[0], padding[1], padding[2], padding[3],   dilation.first, dilation.second};
        check(isogrid::Convolution::create(matrix, groups, shape, epilogue, &operation_));
    }
    PythonConvolution(const PythonConvolution&) = delete;
    PythonConvolution& operator=(const PythonConvolution&) = delete;
    ~PythonConvolution() {
        if (operation_ != nullptr) isogrid::Convolution::destroy(operation_);
    }

    std::pair<int, int> output_size(int height, int width) const {
        int out_height = 0;
        int out_width = 0;
        check(operation_->output_size(height, width, &out_height, &out_width));
        return {out_height, out_width};
    }

    void run(std::uintptr_t x, std::int64_t images, int height, int width, std::uintptr_t residual, std::uintptr_t y) {
        isogrid::Status status;
        {
            nb::gil_scoped_release release;
            status = operation_->run(torch_executor(), floats(x), images, height, width, floats(residual),
                                     mutable_floats(y));
        }
        check(status);
    }

  private:
    isogrid::Convolution* operation_ = nullptr;
};

isogrid::ConvolutionShape pool_shape(int height, int width, std::pair<int, int> kernel, std::pair<int, int> stride,
                                     std::pair<int, int> padding, std::pair<int, int> dilation) {
    return {1,
            height,
            width,
            kernel.first,
            kernel.second,
            stride.first,
            stride.second,
            padding.first,
            padding.second,
            padding.first,
            padding.second,
            dilation.first,
            dilation.second};
}

std::pair<int, int> max_pool_size(int height, int width, std::pair<int, int> kernel, std::pair<int, int> stride,
                                  std::pair<int, int> padding, std::pair<int, int> dilation) {
    int out_height = 0;
    int out_width = 0;
    check(isogrid::output_size(pool_shape(height, width, kernel, stride, padding, dilation), &out_height, &out_width));
    return {out_height, out_width};
}

void max_pool(std::uintptr_t x, std::int64_t planes, int height, int width, std::pair<int, int> kernel,
              std::pair<int, int> stride, std::pair<int, int> padding, std::pair<int, int> dilation, std::uintptr_t y) {
    isogrid::Status status;
    {
        nb::gil_scoped_release release;
        status = isogrid::max_pool(torch_executor(), pool_shape(height, width, kernel, stride, padding, dilation),
                                   floats(x), planes, mutable_floats(y));
    }
    check(status);
}

nb::list targets() {
    const char* names[isogrid::max_targets];
    nb::list list;
    for (int i = 0, n = isogrid::available_targets(names); i < n; ++i) list.append(names[i]);
    return list;
}

}  // namespace

void add_engine(nb::module_& module) {
    module.def("targets", &targets, "The kernel targets that this processor can run, best first.");
    module.def("current_target", &isogrid::current_target, "The kernel target in use.");
    module.def(
        "select_target", [](const std::string& name) { check(isogrid::select_target(name.c_str())); }, "name"_a,
        "Use another kernel target from now on; ValueError if this processor cannot.");
    module.def("find_torch_threads", &find_torch_threads,
               "Whether PyTorch's thread pool was found in this process and is used from now on.");

    module.def("max_pool_size", &max_pool_size, "height"_a, "width"_a, "kernel"_a, "stride"_a, "padding"_a,
               "dilation"_a, "Height and width of `max_pool`'s result.");
    module.def("max_pool", &max_pool, "x"_a, "planes"_a, "height"_a, "width"_a, "kernel"_a, "stride"_a, "padding"_a,
               "dilation"_a, "y"_a, "The largest of each window of float32 planes, by their addresses.");

    nb::class_<PythonLinear>(module, "Linear", "A sparse linear layer on token-major activations.")
        .def(nb::init<std::int64_t, std::int64_t, const Array<std::int64_t>&, const Array<std::int32_t>&,
                      const Numbers&, const Scales&, const std::optional<Array<float>>&, int, float, float, bool>(),
             "rows"_a, "columns"_a, "row_begin"_a.noconvert(), "column"_a.noconvert(), "values"_a.noconvert(),
             "scales"_a.none(), "bias"_a.none(), "activation"_a, "low"_a, "high"_a, "skip_zeros"_a)
        .def("run", &PythonLinear::run, "x"_a, "tokens"_a, "residual"_a, "y"_a,
             "Addresses of float32 data: x [tokens][columns], residual (0 for none) and y [tokens][rows].");
    nb::class_<PythonConvolution>(module, "Convolution", "A sparse convolution on NCHW images.")
        .def(nb::init<std::int64_t, std::int64_t, const Array<std::int64_t>&, const Array<std::int32_t>&,
                      const Numbers&, const Scales&, const std::optional<Array<float>>&, int, float, float, int, int,
                      std::pair<int, int>, std::pair<int, int>, std::array<int, 4>, std::pair<int, int>>(),
             "rows"_a, "columns"_a, "row_begin"_a.noconvert(), "column"_a.noconvert(), "values"_a.noconvert(),
             "scales"_a.none(), "bias"_a.none(), "activation"_a, "low"_a, "high"_a, "groups"_a, "channels"_a,
             "kernel"_a, "stride"_a, "padding"_a, "dilation"_a)
        .def("output_size", &PythonConvolution::output_size, "height"_a, "width"_a)
        .def("run", &PythonConvolution::run, "x"_a, "images"_a, "height"_a, "width"_a, "residual"_a, "y"_a,
             "Addresses of float32 data: x [images][groups * channels][height][width], residual (0 for none) and y.");
}
