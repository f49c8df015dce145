#include "bindings/onnxruntime/linear.hpp"

#include "bindings/onnxruntime/weights.hpp"

namespace isogrid::onnxruntime {

SparseLinear::SparseLinear(const Node& node) : session_(Session::of(node)) {
    const Packed packed = packed_input(node, 1, "packed");
    rows_ = repeated(node, "rows", packed.header.rows);
    columns_ = packed.header.columns;
    const bool skip_zeros = node.integer("skip_zeros", 0, 1, 0) != 0;
    const NodeEpilogue epilogue(node, 2, rows_);
    const std::string key = name + bytes_of(packed.data, skip_zeros) + epilogue.key();
    operation_ = session_->share<Linear>(key, [&] {
        const PackedMatrix weights = packed.read();
        return made<Linear>(
            [&](Linear** out) { return Linear::create(weights.view(), epilogue.view(), skip_zeros, out); });
    });
}

void SparseLinear::run(const Call& call) const {
    const Tensor x = call.needed(0);
    if (x.shape.axes == 0 || x.shape.last() != columns_) {
        throw Error{"x has the shape " + x.shape.text() + ", accepted are " + std::to_string(columns_) +
                    " numbers along the last axis"};
    }
    Shape shape = x.shape;
    shape.size[shape.axes - 1] = rows_;
    const float* const residual = residual_of(call, 3, shape);
    float* const y = call.output(0, shape);
    Pool pool(call, *session_);
    check(operation_->run(pool.executor(), x.floats(), shape.count(0, shape.axes - 1), residual, y));
}

void SparseLinear::infer(const Inference& inference) {
    const auto rows = inference.integer("rows");
    auto shape = inference.input(0);
    if (!shape || !rows) return;
    shape->back() = {*rows, ""};
    inference.first_output(*shape);
}

}  // namespace isogrid::onnxruntime
