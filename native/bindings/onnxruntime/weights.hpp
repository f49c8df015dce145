// What the operators have in common: packed weights and the epilogue.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/onnxruntime/host.hpp"
#include "isogrid/epilogue.hpp"
#include "isogrid/packed_matrix.hpp"

namespace isogrid::onnxruntime {

// Owns an operation of the core.
template <class Operation>
struct Destroy {
    void operator()(Operation* operation) const noexcept { Operation::destroy(operation); }
};

// The operation that `create(&out)` makes.
template <class Operation, class Create>
std::shared_ptr<Operation> made(const Create& create) {
    Operation* raw = nullptr;
    check(create(&raw));
    return std::shared_ptr<Operation>(raw, Destroy<Operation>{});
}

// A packed weight whose header was read and agrees with the length of the data.
struct Packed {
    const char* input;
    Bytes data;
    PackedHeader header;

    PackedMatrix read() const;
    // Throws the core's complaint about the data, if it has one.
    void check(Status status) const;
};

std::optional<Packed> find_packed(const Node& node, std::size_t index, const char* input);
Packed packed_input(const Node& node, std::size_t index, const char* input);

// The attribute that repeats what the weights say; throws where it does not.
std::int64_t repeated(const Node& node, const char* attribute, std::int64_t packed);

// A constant f32 vector or matrix of exactly this shape; nothing where the node has no such input.
std::optional<std::vector<float>> constant_floats(const Node& node, std::size_t index, const char* input,
                                                  const Shape& shape);

// Bias, activation and its bounds, from input `bias_index` and the attributes.
class NodeEpilogue {
  public:
    NodeEpilogue(const Node& node, std::size_t bias_index, std::int64_t rows);
    Epilogue view() const noexcept;
    // All of it, as part of a key.
    std::string key() const;

  private:
    std::optional<std::vector<float>> bias_;
    Epilogue epilogue_;
};

// The bytes of some numbers. Nodes share an operation if all that it was made from is the same.
template <class... Parts>
std::string bytes_of(const Parts&... parts) {
    std::string bytes;
    (bytes.append(reinterpret_cast<const char*>(&parts), sizeof parts), ...);
    return bytes;
}

// Null where the node has no residual. Throws unless it has the output's shape.
const float* residual_of(const Call& call, std::size_t index, const Shape& output);

}  // namespace isogrid::onnxruntime
