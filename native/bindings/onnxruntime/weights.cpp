#include "bindings/onnxruntime/weights.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace isogrid::onnxruntime {
namespace {

// In the order of `Activation`.
constexpr const char* activation_names[] = {"none",      "relu",        "clip",       "leaky_relu",   "gelu",
                                            "gelu_tanh", "silu",        "hard_swish", "hard_sigmoid", "sigmoid",
                                            "tanh",      "sparse_relu", "sparse_tanh"};
static_assert(std::size(activation_names) == activation_count);

Activation activation_of(const std::string& name) {
    const auto* const found = std::find(std::begin(activation_names), std::end(activation_names), name);
    if (found != std::end(activation_names)) return static_cast<Activation>(found - std::begin(activation_names));
    std::string accepted;
    for (const char* const known : activation_names) accepted += (accepted.empty() ? "" : ", ") + std::string(known);
    throw Error{"the attribute activation is '" + name + "', accepted are " + accepted};
}

}  // namespace

void Packed::check(Status status) const {
    if (status == Status::out_of_memory) onnxruntime::check(status);
    if (status != Status::ok) throw Error{std::string("the input ") + input + " is damaged: " + message(status)};
}

PackedMatrix Packed::read() const {
    PackedMatrix matrix;
    check(PackedMatrix::read(data, &matrix));
    return matrix;
}

std::optional<Packed> find_packed(const Node& node, std::size_t index, const char* input) {
    const auto tensor = node.constant(index, input, uint8);
    if (!tensor) return std::nullopt;
    if (tensor->shape.axes != 1) {
        throw Error{std::string("the input ") + input + " has the shape " + tensor->shape.text() +
                    ", accepted is one axis"};
    }
    Packed packed{
        input, {static_cast<const std::uint8_t*>(tensor->data), static_cast<std::size_t>(tensor->shape.size[0])}, {}};
    packed.check(packed_header(packed.data, &packed.header));
    return packed;
}

Packed packed_input(const Node& node, std::size_t index, const char* input) {
    const auto packed = find_packed(node, index, input);
    if (!packed) throw Error{std::string("the input ") + input + " is missing"};
    return *packed;
}

std::int64_t repeated(const Node& node, const char* attribute, std::int64_t packed) {
    const std::int64_t value = node.integer(attribute, 1, max_matrix_side);
    if (value == packed) return value;
    throw Error{std::string("the attribute ") + attribute + " is " + std::to_string(value) +
                ", and the packed weights have " + std::to_string(packed)};
}

std::optional<std::vector<float>> constant_floats(const Node& node, std::size_t index, const char* input,
                                                  const Shape& shape) {
    const auto tensor = node.constant(index, input, float32);
    if (!tensor) return std::nullopt;
    if (!(tensor->shape == shape)) {
        throw Error{std::string("the input ") + input + " has the shape " + tensor->shape.text() + ", accepted is " +
                    shape.text()};
    }
    // Initializers in files of their own may lie anywhere.
    std::vector<float> values(static_cast<std::size_t>(shape.count(0, shape.axes)));
    std::memcpy(values.data(), tensor->data, values.size() * sizeof(float));
    return values;
}

NodeEpilogue::NodeEpilogue(const Node& node, std::size_t bias_index, std::int64_t rows)
    : bias_(constant_floats(node, bias_index, "bias", {1, {rows}})),
      epilogue_{nullptr, activation_of(node.text("activation", "none")), node.real("low", 0.0f),
                node.real("high", 0.0f)} {}

Epilogue NodeEpilogue::view() const noexcept {
    Epilogue epilogue = epilogue_;
    epilogue.bias = bias_ ? bias_->data() : nullptr;
    return epilogue;
}

std::string NodeEpilogue::key() const {
    std::string key = bytes_of(epilogue_.activation, epilogue_.low, epilogue_.high);
    if (bias_) key.append(reinterpret_cast<const char*>(bias_->data()), bias_->size() * sizeof(float));
    return key;
}

const float* residual_of(const Call& call, std::size_t index, const Shape& output) {
    const auto residual = call.input(index);
    if (!residual) return nullptr;
    if (!(residual->shape == output)) {
        throw Error{"the residual has the shape " + residual->shape.text() + ", and the output " + output.text()};
    }
    return residual->floats();
}

}  // namespace isogrid::onnxruntime
