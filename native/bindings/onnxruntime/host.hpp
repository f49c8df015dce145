// The runtime's objects as the operators want to see them. What goes wrong is thrown as an `Error` and becomes the
// runtime's own status before it leaves the library.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bindings/onnxruntime/interface.hpp"
#include "isogrid/status.hpp"
#include "isogrid/views.hpp"

namespace isogrid::onnxruntime {

// One sentence without a full stop.
struct Error {
    std::string sentence;
    ErrorCode code = invalid_argument;
};

// Throws the runtime's own complaint, if it has one.
void check(Table table, OrtStatus* status);
// The same of the core's.
void check(Status status);
// False, and no complaint, where the runtime has one.
bool accepted(Table table, OrtStatus* status) noexcept;

// Calls body() and gives what it throws as the runtime's status, beginning with `who`; null where nothing is thrown.
template <class Who, class Body>
OrtStatus* guard(Table table, const Who& who, const Body& body) noexcept;

inline constexpr std::size_t most_axes = 16;

struct Shape {
    std::size_t axes = 0;
    std::int64_t size[most_axes] = {};

    bool operator==(const Shape& other) const noexcept;
    std::int64_t last() const noexcept { return size[axes - 1]; }
    // Product of the sizes of some axes.
    std::int64_t count(std::size_t first, std::size_t end) const noexcept;
    std::string text() const;  // such as [2, 3]
};

struct Tensor {
    int type = undefined;
    Shape shape;
    const void* data = nullptr;

    const float* floats() const noexcept { return static_cast<const float*>(data); }
};

// A node whose kernel is being made.
class Node {
  public:
    Node(Table table, const OrtKernelInfo* info, const char* kind) : table_(table), info_(info), kind_(kind) {}

    // The kind of node and its name: the subject of every error.
    std::string who() const;
    // The same for all nodes of a session, and different from those of any other that exists at the same time.
    const void* session() const;

    // Attributes. Those without a default must be there; one of another type is an error.
    std::int64_t integer(const char* name, std::int64_t low, std::int64_t high) const;
    std::int64_t integer(const char* name, std::int64_t low, std::int64_t high, std::int64_t otherwise) const;
    float real(const char* name, float otherwise) const;
    std::string text(const char* name, const char* otherwise) const;
    std::optional<std::vector<std::int64_t>> integers(const char* name) const;

    bool has_input(std::size_t index) const;
    // A constant of this type, or nothing where the node has no such input. Anything else is an error.
    std::optional<Tensor> constant(std::size_t index, const char* input, int type) const;

  private:
    bool present(const char* name) const;
    std::optional<std::int64_t> find_integer(const char* name, std::int64_t low, std::int64_t high) const;

    Table table_;
    const OrtKernelInfo* info_;
    const char* kind_;
};

// One run of a kernel.
class Call {
  public:
    Call(Table table, OrtKernelContext* context) : table_(table), context_(context) {}

    // Nothing where the node has no such input.
    std::optional<Tensor> input(std::size_t index) const;
    Tensor needed(std::size_t index) const;
    // Null where nobody asked for this output.
    float* output(std::size_t index, const Shape& shape) const;

    Table table() const { return table_; }
    OrtKernelContext* context() const { return context_; }

  private:
    Table table_;
    OrtKernelContext* context_;
};

// What is known of a size when shapes are inferred: a number, or at most a name.
struct Dimension {
    std::int64_t size = -1;
    std::string name;
};
using Dimensions = std::vector<Dimension>;

class Inference {
  public:
    Inference(Table table, OrtShapeInferContext* context) : table_(table), context_(context) {}

    // Nothing where the shape is not known.
    std::optional<Dimensions> input(std::size_t index) const;
    std::optional<std::int64_t> integer(const char* name) const;
    std::vector<std::int64_t> integers(const char* name) const;
    std::string text(const char* name) const;
    // Does nothing where neither number nor name of one of the sizes is known. The other outputs are left alone: of a
    // node that has fewer than it may, the runtime would write to memory that is not there, and it does not tell how
    // many there are.
    void first_output(const Dimensions& shape) const;

  private:
    const void* attribute(const char* name) const;

    Table table_;
    OrtShapeInferContext* context_;
};

OrtStatus* status_of(Table table, const std::string& who, const Error& error) noexcept;

template <class Who, class Body>
OrtStatus* guard(Table table, const Who& who, const Body& body) noexcept {
    try {
        try {
            body();
            return nullptr;
        } catch (const Error& error) {
            return status_of(table, who(), error);
        } catch (const std::exception&) {
            // The core throws but this, and so does what is used of the standard library.
            return status_of(table, who(), {message(Status::out_of_memory), fail});
        }
    } catch (...) {
        return entry::CreateStatus::of(table)(fail, "there is not enough memory to say what went wrong");
    }
}

}  // namespace isogrid::onnxruntime
