#pragma once

#include "bindings/onnxruntime/operator.hpp"
#include "bindings/onnxruntime/session.hpp"
#include "isogrid/linear.hpp"

namespace isogrid::onnxruntime {

// y = activation(x W' + bias + residual): x [.., columns], packed W, bias [rows]?, residual?; y [.., rows].
class SparseLinear {
  public:
    static constexpr const char* name = "SparseLinear";
    static constexpr Port inputs[] = {{float32}, {uint8}, {float32, optional}, {float32, optional}};
    static constexpr Port outputs[] = {{float32}};

    explicit SparseLinear(const Node& node);
    void run(const Call& call) const;
    static void infer(const Inference& inference);

  private:
    std::shared_ptr<Session> session_;
    std::shared_ptr<Linear> operation_;
    std::int64_t rows_ = 0;
    std::int64_t columns_ = 0;
};

}  // namespace isogrid::onnxruntime
