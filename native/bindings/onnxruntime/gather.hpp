#pragma once

#include "bindings/onnxruntime/operator.hpp"
#include "bindings/onnxruntime/session.hpp"
#include "isogrid/embedding.hpp"

namespace isogrid::onnxruntime {

// y = W[indices]: packed W, indices (int64 or int32; negative ones count from the end); y [indices' shape, columns].
class SparseGather {
  public:
    static constexpr const char* name = "SparseGather";
    static constexpr Port inputs[] = {{uint8}, {undefined}};
    static constexpr Port outputs[] = {{float32}};

    explicit SparseGather(const Node& node);
    void run(const Call& call) const;
    static void infer(const Inference& inference);

  private:
    std::shared_ptr<Session> session_;
    std::shared_ptr<Embedding> operation_;
    std::int64_t rows_ = 0;
    std::int64_t columns_ = 0;
};

}  // namespace isogrid::onnxruntime
