#include "bindings/onnxruntime/host.hpp"

#include <algorithm>

namespace isogrid::onnxruntime {
namespace {

// A text that the runtime first gives the length of, with its closing zero.
template <class Read>
std::string text_of(const Read& read) {
    std::size_t size = 0;
    if (!read(nullptr, &size)) return {};
    std::string text(size, '\0');
    if (size == 0 || !read(text.data(), &size)) return {};
    text.resize(size - 1);
    return text;
}

struct ShapeInfo {
    Table table;
    OrtTensorTypeAndShapeInfo* info = nullptr;

    explicit ShapeInfo(Table t) : table(t) {}
    ShapeInfo(const ShapeInfo&) = delete;
    ShapeInfo& operator=(const ShapeInfo&) = delete;
    ~ShapeInfo() { entry::ReleaseShape::of(table)(info); }
};

Tensor tensor_of(Table table, const OrtValue* value) {
    ShapeInfo owner(table);
    check(table, entry::GetTypeAndShape::of(table)(value, &owner.info));
    Tensor tensor;
    check(table, entry::GetElementType::of(table)(owner.info, &tensor.type));
    check(table, entry::GetDimensionsCount::of(table)(owner.info, &tensor.shape.axes));
    if (tensor.shape.axes > most_axes) {
        throw Error{"an input has " + std::to_string(tensor.shape.axes) + " axes, and at most 16 are accepted"};
    }
    check(table, entry::GetDimensions::of(table)(owner.info, tensor.shape.size, tensor.shape.axes));
    void* data = nullptr;
    // The runtime has no way to ask for data that are only read.
    check(table, entry::GetTensorData::of(table)(const_cast<OrtValue*>(value), &data));
    tensor.data = data;
    return tensor;
}

std::string range(std::int64_t low, std::int64_t high) {
    return "from " + std::to_string(low) + " to " + std::to_string(high);
}

}  // namespace

void check(Table table, OrtStatus* status) {
    if (status == nullptr) return;
    std::string sentence = entry::GetErrorMessage::of(table)(status);
    entry::ReleaseStatus::of(table)(status);
    throw Error{std::move(sentence), fail};
}

void check(Status status) {
    if (status != Status::ok) throw Error{message(status), status == Status::out_of_memory ? fail : invalid_argument};
}

bool accepted(Table table, OrtStatus* status) noexcept {
    if (status == nullptr) return true;
    entry::ReleaseStatus::of(table)(status);
    return false;
}

OrtStatus* status_of(Table table, const std::string& who, const Error& error) noexcept {
    const std::string text = who + ": " + error.sentence + ".";
    return entry::CreateStatus::of(table)(error.code, text.c_str());
}

bool Shape::operator==(const Shape& other) const noexcept {
    return axes == other.axes && std::equal(size, size + axes, other.size);
}

std::int64_t Shape::count(std::size_t first, std::size_t end) const noexcept {
    // The sizes beside a zero may be such that their product is no number.
    if (std::find(size + first, size + end, 0) != size + end) return 0;
    std::int64_t product = 1;
    for (std::size_t i = first; i < end; ++i) product *= size[i];
    return product;
}

std::string Shape::text() const {
    std::string text = "[";
    for (std::size_t i = 0; i < axes; ++i) text += (i == 0 ? "" : ", ") + std::to_string(size[i]);
    return text + "]";
}

std::string Node::who() const {
    const std::string name = text_of([&](char* out, std::size_t* size) {
        return accepted(table_, entry::InfoNodeName::of(table_)(info_, out, size));
    });
    return std::string(kind_) + " node '" + name + "'";
}

const void* Node::session() const {
    const OrtLogger* logger = nullptr;
    check(table_, entry::InfoLogger::of(table_)(info_, &logger));
    return logger;
}

bool Node::present(const char* name) const {
    float real = 0;
    std::int64_t whole = 0;
    std::size_t size = 0;
    return accepted(table_, entry::InfoAttributeInt::of(table_)(info_, name, &whole)) ||
           accepted(table_, entry::InfoAttributeFloat::of(table_)(info_, name, &real)) ||
           accepted(table_, entry::InfoAttributeString::of(table_)(info_, name, nullptr, &size)) ||
           accepted(table_, entry::InfoAttributeInts::of(table_)(info_, name, nullptr, &size));
}

std::optional<std::int64_t> Node::find_integer(const char* name, std::int64_t low, std::int64_t high) const {
    std::int64_t value = 0;
    if (!accepted(table_, entry::InfoAttributeInt::of(table_)(info_, name, &value))) {
        if (present(name)) throw Error{std::string("the attribute ") + name + " must be a whole number"};
        return std::nullopt;
    }
    if (value < low || value > high) {
        throw Error{std::string("the attribute ") + name + " is " + std::to_string(value) + ", accepted are numbers " +
                    range(low, high)};
    }
    return value;
}

std::int64_t Node::integer(const char* name, std::int64_t low, std::int64_t high) const {
    const auto found = find_integer(name, low, high);
    if (!found) throw Error{std::string("the attribute ") + name + " is missing"};
    return *found;
}

std::int64_t Node::integer(const char* name, std::int64_t low, std::int64_t high, std::int64_t otherwise) const {
    return find_integer(name, low, high).value_or(otherwise);
}

float Node::real(const char* name, float otherwise) const {
    float value = 0;
    if (accepted(table_, entry::InfoAttributeFloat::of(table_)(info_, name, &value))) return value;
    if (present(name)) throw Error{std::string("the attribute ") + name + " must be a float"};
    return otherwise;
}

std::string Node::text(const char* name, const char* otherwise) const {
    std::size_t size = 0;
    if (!accepted(table_, entry::InfoAttributeString::of(table_)(info_, name, nullptr, &size))) {
        if (present(name)) throw Error{std::string("the attribute ") + name + " must be a string"};
        return otherwise;
    }
    return text_of([&](char* out, std::size_t* length) {
        return accepted(table_, entry::InfoAttributeString::of(table_)(info_, name, out, length));
    });
}

std::optional<std::vector<std::int64_t>> Node::integers(const char* name) const {
    std::size_t size = 0;
    // An attribute of another type is an empty list to the runtime.
    if (!accepted(table_, entry::InfoAttributeInts::of(table_)(info_, name, nullptr, &size))) return std::nullopt;
    std::vector<std::int64_t> values(size);
    if (size > 0) check(table_, entry::InfoAttributeInts::of(table_)(info_, name, values.data(), &size));
    return values;
}

bool Node::has_input(std::size_t index) const {
    std::size_t count = 0;
    check(table_, entry::InfoInputCount::of(table_)(info_, &count));
    if (index >= count) return false;
    const std::string name = text_of([&](char* out, std::size_t* size) {
        return accepted(table_, entry::InfoInputName::of(table_)(info_, index, out, size));
    });
    return !name.empty();
}

std::optional<Tensor> Node::constant(std::size_t index, const char* input, int type) const {
    if (!has_input(index)) return std::nullopt;
    int is_constant = 0;
    const OrtValue* value = nullptr;
    check(table_, entry::InfoConstantInput::of(table_)(info_, index, &is_constant, &value));
    if (is_constant == 0 || value == nullptr) {
        throw Error{std::string("the input ") + input + " must be a constant initializer"};
    }
    const Tensor tensor = tensor_of(table_, value);
    if (tensor.type != type) throw Error{std::string("the input ") + input + " has elements of the wrong type"};
    return tensor;
}

std::optional<Tensor> Call::input(std::size_t index) const {
    std::size_t count = 0;
    check(table_, entry::ContextInputCount::of(table_)(context_, &count));
    if (index >= count) return std::nullopt;
    const OrtValue* value = nullptr;
    check(table_, entry::ContextInput::of(table_)(context_, index, &value));
    if (value == nullptr) return std::nullopt;
    return tensor_of(table_, value);
}

Tensor Call::needed(std::size_t index) const {
    const auto found = input(index);
    if (!found) throw Error{"input " + std::to_string(index) + " is missing"};
    return *found;
}

float* Call::output(std::size_t index, const Shape& shape) const {
    std::size_t count = 0;
    check(table_, entry::ContextOutputCount::of(table_)(context_, &count));
    if (index >= count) return nullptr;
    OrtValue* value = nullptr;
    check(table_, entry::ContextOutput::of(table_)(context_, index, shape.size, shape.axes, &value));
    if (value == nullptr) return nullptr;
    void* data = nullptr;
    check(table_, entry::GetTensorData::of(table_)(value, &data));
    return static_cast<float*>(data);
}

}  // namespace isogrid::onnxruntime
