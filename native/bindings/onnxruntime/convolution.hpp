#pragma once

#include "bindings/onnxruntime/operator.hpp"
#include "bindings/onnxruntime/session.hpp"
#include "isogrid/convolution.hpp"

namespace isogrid::onnxruntime {

// y = activation(x * W + bias + residual): x [n, c, h, w] or [n, c, l], packed W, bias [rows]?, residual?;
// y [n, rows, ..]. What has one spatial axis is an image of one row.
class SparseConv {
  public:
    static constexpr const char* name = "SparseConv";
    static constexpr Port inputs[] = {{float32}, {uint8}, {float32, optional}, {float32, optional}};
    static constexpr Port outputs[] = {{float32}};

    explicit SparseConv(const Node& node);
    void run(const Call& call) const;
    static void infer(const Inference& inference);

  private:
    std::shared_ptr<Session> session_;
    std::shared_ptr<Convolution> operation_;
    std::int64_t rows_ = 0;
    std::int64_t channels_ = 0;  // of all groups
    std::size_t spatial_ = 0;    // axes
};

}  // namespace isogrid::onnxruntime
