#include "bindings/onnxruntime/gather.hpp"

#include "bindings/onnxruntime/weights.hpp"

namespace isogrid::onnxruntime {
namespace {

// Row numbers from 0 on, in `room` unless they are such already.
template <class Index>
const std::int64_t* row_numbers(const Index* indices, std::int64_t count, std::int64_t rows,
                                std::vector<std::int64_t>& room) {
    bool negative = false;
    for (std::int64_t i = 0; i < count; ++i) {
        if (indices[i] < -rows || indices[i] >= rows) {
            throw Error{"the index " + std::to_string(indices[i]) + " does not lie in [" + std::to_string(-rows) +
                        ", " + std::to_string(rows) + ")"};
        }
        negative |= indices[i] < 0;
    }
    if constexpr (sizeof(Index) == sizeof(std::int64_t)) {
        if (!negative) return indices;
    }
    room.resize(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
        room[static_cast<std::size_t>(i)] = indices[i] < 0 ? indices[i] + rows : indices[i];
    }
    return room.data();
}

}  // namespace

SparseGather::SparseGather(const Node& node) : session_(Session::of(node)) {
    const Packed packed = packed_input(node, 0, "packed");
    rows_ = packed.header.rows;
    columns_ = repeated(node, "columns", packed.header.columns);
    operation_ = session_->share<Embedding>(name + bytes_of(packed.data), [&] {
        if (packed.header.places == Places::dense && packed.header.type == ValueType::int8) {
            PackedTable table;
            packed.check(PackedTable::read(packed.data, &table));
            return made<Embedding>([&](Embedding** out) { return Embedding::create(table.view(), out); });
        }
        const PackedMatrix weights = packed.read();
        return made<Embedding>([&](Embedding** out) { return Embedding::create(weights.view(), out); });
    });
}

void SparseGather::run(const Call& call) const {
    const Tensor indices = call.needed(1);
    if (indices.type != int64 && indices.type != int32) throw Error{"indices must be int64 or int32"};
    Shape shape = indices.shape;
    if (shape.axes == most_axes) throw Error{"indices have 16 axes, and at most 15 are accepted"};
    const std::int64_t count = shape.count(0, shape.axes);
    shape.size[shape.axes++] = columns_;
    std::vector<std::int64_t> room;
    const std::int64_t* const rows =
        indices.type == int64 ? row_numbers(static_cast<const std::int64_t*>(indices.data), count, rows_, room)
                              : row_numbers(static_cast<const std::int32_t*>(indices.data), count, rows_, room);
    float* const y = call.output(0, shape);
    Pool pool(call, *session_);
    check(operation_->run(pool.executor(), rows, count, y));
}

void SparseGather::infer(const Inference& inference) {
    const auto columns = inference.integer("columns");
    auto shape = inference.input(1);
    if (!shape || !columns) return;
    shape->push_back({*columns, ""});
    inference.first_output(*shape);
}

}  // namespace isogrid::onnxruntime
