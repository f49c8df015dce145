#include "bindings/onnxruntime/convolution.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "bindings/onnxruntime/weights.hpp"

namespace isogrid::onnxruntime {
namespace {

// What the core accepts; other numbers are refused when the session is created and not when it runs.
struct Limits {
    const char* name;
    std::int64_t low, high, otherwise;
};
constexpr Limits kernel_limits{"kernel_shape", 1, 255, 1};
constexpr Limits stride_limits{"strides", 1, 255, 1};
constexpr Limits dilation_limits{"dilations", 1, 4096, 1};
constexpr Limits pad_limits{"pads", 0, 1 << 20, 0};

bool within(const std::vector<std::int64_t>& values, const Limits& limits) {
    return std::all_of(values.begin(), values.end(),
                       [&](std::int64_t value) { return limits.low <= value && value <= limits.high; });
}

std::vector<int> numbers(const Node& node, const Limits& limits, std::size_t count) {
    const auto found = node.integers(limits.name);
    if (!found) return std::vector<int>(count, static_cast<int>(limits.otherwise));
    if (found->size() != count || !within(*found, limits)) {
        throw Error{std::string("the attribute ") + limits.name + " must have " + std::to_string(count) +
                    " numbers from " + std::to_string(limits.low) + " to " + std::to_string(limits.high)};
    }
    return {found->begin(), found->end()};
}

int spatial_size(std::int64_t size) {
    if (size > std::numeric_limits<int>::max()) check(Status::shape_out_of_range);
    return static_cast<int>(size);
}

// (size + added) / stride + 1 of a size of which perhaps only the name is known.
Dimension output_size(const Dimension& in, std::int64_t added, std::int64_t stride) {
    if (in.name.empty()) {
        const bool known = in.size >= 0 && in.size <= std::numeric_limits<int>::max() && in.size + added >= 0;
        return {known ? (in.size + added) / stride + 1 : -1, ""};
    }
    if (stride == 1 && added == -1) return in;
    // What is called alike is taken to be equal, so the name must say all.
    return {-1, "(" + in.name + (added < 0 ? "-" : "+") + std::to_string(std::abs(added)) + ")/" +
                    std::to_string(stride) + "+1"};
}

}  // namespace

SparseConv::SparseConv(const Node& node) : session_(Session::of(node)) {
    const Packed packed = packed_input(node, 1, "packed");
    rows_ = repeated(node, "rows", packed.header.rows);
    const auto kernel_shape = node.integers(kernel_limits.name);
    if (!kernel_shape) throw Error{"the attribute kernel_shape is missing"};
    spatial_ = kernel_shape->size();
    if (spatial_ != 1 && spatial_ != 2) throw Error{"the attribute kernel_shape must have one number or two"};
    if (node.text("auto_pad", "NOTSET") != "NOTSET") throw Error{"the attribute auto_pad is not accepted, pads is"};

    const auto kernel = numbers(node, kernel_limits, spatial_);
    const auto strides = numbers(node, stride_limits, spatial_);
    const auto dilations = numbers(node, dilation_limits, spatial_);
    const auto pads = numbers(node, pad_limits, 2 * spatial_);
    const bool flat = spatial_ == 1;
    ConvolutionShape shape{};
    shape.height = shape.width = 1;  // those of the images count
    shape.kernel_height = flat ? 1 : kernel[0];
    shape.kernel_width = kernel.back();
    shape.stride_y = flat ? 1 : strides[0];
    shape.stride_x = strides.back();
    shape.dilation_y = flat ? 1 : dilations[0];
    shape.dilation_x = dilations.back();
    shape.pad_top = flat ? 0 : pads[0];
    shape.pad_left = pads[spatial_ - 1];
    shape.pad_bottom = flat ? 0 : pads[2];
    shape.pad_right = pads.back();

    const std::int64_t group = node.integer("group", 1, max_matrix_side, 1);
    const int taps = shape.kernel_height * shape.kernel_width;
    if (rows_ % group != 0 || packed.header.columns % taps != 0) {
        throw Error{"the packed weights are " + std::to_string(rows_) + " x " + std::to_string(packed.header.columns) +
                    ", which is not so many whole groups (" + std::to_string(group) + ") of kernels of " +
                    std::to_string(taps) + " weights"};
    }
    shape.channels = packed.header.columns / taps;
    channels_ = group * shape.channels;
    const NodeEpilogue epilogue(node, 2, rows_);
    const std::string key = name + bytes_of(packed.data, group, shape) + epilogue.key();
    operation_ = session_->share<Convolution>(key, [&] {
        const PackedMatrix weights = packed.read();
        return made<Convolution>([&](Convolution** out) {
            return Convolution::create(weights.view(), static_cast<int>(group), shape, epilogue.view(), out);
        });
    });
}

void SparseConv::run(const Call& call) const {
    const Tensor x = call.needed(0);
    if (x.shape.axes != spatial_ + 2 || x.shape.size[1] != channels_) {
        throw Error{"x has the shape " + x.shape.text() + ", accepted are " + std::to_string(spatial_ + 2) +
                    " axes, the second of size " + std::to_string(channels_)};
    }
    const int height = spatial_ == 1 ? 1 : spatial_size(x.shape.size[2]);
    const int width = spatial_size(x.shape.last());
    int out_height = 0;
    int out_width = 0;
    check(operation_->output_size(height, width, &out_height, &out_width));
    Shape shape = x.shape;
    shape.size[1] = rows_;
    shape.size[2] = out_height;
    shape.size[shape.axes - 1] = out_width;
    const float* const residual = residual_of(call, 3, shape);
    float* const y = call.output(0, shape);
    Pool pool(call, *session_);
    check(operation_->run(pool.executor(), x.floats(), shape.size[0], height, width, residual, y));
}

void SparseConv::infer(const Inference& inference) {
    const auto rows = inference.integer("rows");
    auto shape = inference.input(0);
    const auto kernel = inference.integers(kernel_limits.name);
    const std::size_t spatial = kernel.size();
    if (!shape || !rows || spatial < 1 || spatial > 2 || shape->size() != spatial + 2) return;
    const auto numbers = [&](const Limits& limits, std::size_t count) {
        auto found = inference.integers(limits.name);
        if (found.empty()) found.assign(count, limits.otherwise);
        return found;
    };
    const auto strides = numbers(stride_limits, spatial);
    const auto dilations = numbers(dilation_limits, spatial);
    const auto pads = numbers(pad_limits, 2 * spatial);
    // What is wrong with them is said when the kernel is made.
    if (strides.size() != spatial || dilations.size() != spatial || pads.size() != 2 * spatial ||
        !within(kernel, kernel_limits) || !within(strides, stride_limits) || !within(dilations, dilation_limits) ||
        !within(pads, pad_limits)) {
        return;
    }
    (*shape)[1] = {*rows, ""};
    for (std::size_t i = 0; i < spatial; ++i) {
        const std::int64_t added = pads[i] + pads[spatial + i] - dilations[i] * (kernel[i] - 1) - 1;
        (*shape)[2 + i] = output_size((*shape)[2 + i], added, strides[i]);
    }
    inference.first_output(*shape);
}

}  // namespace isogrid::onnxruntime
