#include <array>

#include "bindings/onnxruntime/host.hpp"

namespace isogrid::onnxruntime {
namespace {

// What `ReadAttribute` calls them.
enum AttributeType : int { whole = 1, wholes = 2, string = 5 };

}  // namespace

std::optional<Dimensions> Inference::input(std::size_t index) const {
    std::size_t count = 0;
    check(table_, entry::InferInputCount::of(table_)(context_, &count));
    if (index >= count) return std::nullopt;
    OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's own
    if (!accepted(table_, entry::InferInput::of(table_)(context_, index, &info)) || info == nullptr) {
        return std::nullopt;
    }
    std::size_t axes = 0;
    check(table_, entry::GetDimensionsCount::of(table_)(info, &axes));
    // The runtime says of a shape that it does not know that it has no axes; no input here is without.
    if (axes == 0 || axes > most_axes) return std::nullopt;
    std::array<std::int64_t, most_axes> sizes{};
    std::array<const char*, most_axes> names{};
    check(table_, entry::GetDimensions::of(table_)(info, sizes.data(), axes));
    check(table_, entry::GetSymbolicDimensions::of(table_)(info, names.data(), axes));
    Dimensions shape(axes);
    for (std::size_t i = 0; i < axes; ++i) {
        const bool named = names[i] != nullptr && names[i][0] != '\0';
        shape[i] = {named ? -1 : sizes[i], named ? names[i] : ""};
    }
    return shape;
}

const void* Inference::attribute(const char* name) const {
    const void* found = nullptr;
    if (!accepted(table_, entry::InferAttribute::of(table_)(context_, name, &found))) return nullptr;
    return found;
}

std::optional<std::int64_t> Inference::integer(const char* name) const {
    const void* const found = attribute(name);
    std::int64_t value = 0;
    std::size_t size = 0;
    if (found == nullptr ||
        !accepted(table_, entry::ReadAttribute::of(table_)(found, whole, &value, sizeof value, &size))) {
        return std::nullopt;
    }
    return value;
}

std::vector<std::int64_t> Inference::integers(const char* name) const {
    const void* const found = attribute(name);
    std::array<std::int64_t, most_axes> values{};
    std::size_t size = 0;
    if (found == nullptr ||
        !accepted(table_, entry::ReadAttribute::of(table_)(found, wholes, values.data(), sizeof values, &size))) {
        return {};
    }
    size /= sizeof(std::int64_t);
    return {values.begin(), values.begin() + static_cast<std::ptrdiff_t>(size < most_axes ? size : most_axes)};
}

std::string Inference::text(const char* name) const {
    const void* const found = attribute(name);
    std::array<char, 32> value{};
    std::size_t size = 0;
    if (found == nullptr ||
        !accepted(table_, entry::ReadAttribute::of(table_)(found, string, value.data(), sizeof value, &size))) {
        return {};
    }
    return {value.data(), size < sizeof value ? size : sizeof value};
}

void Inference::first_output(const Dimensions& shape) const {
    struct Owner {
        Table table;
        OrtTensorTypeAndShapeInfo* info = nullptr;
        ~Owner() { entry::ReleaseShape::of(table)(info); }
    } owner{table_};
    check(table_, entry::CreateShape::of(table_)(&owner.info));
    std::vector<std::int64_t> sizes;
    std::vector<const char*> names;
    for (const Dimension& axis : shape) {
        // The runtime takes a size without a name for a number, even if there is none.
        if (axis.size < 0 && axis.name.empty()) return;
        sizes.push_back(axis.size);
        names.push_back(axis.name.c_str());
    }
    check(table_, entry::SetElementType::of(table_)(owner.info, float32));
    check(table_, entry::SetDimensions::of(table_)(owner.info, sizes.data(), sizes.size()));
    check(table_, entry::SetSymbolicDimensions::of(table_)(owner.info, names.data(), names.size()));
    check(table_, entry::InferOutput::of(table_)(context_, 0, owner.info));
}

}  // namespace isogrid::onnxruntime
