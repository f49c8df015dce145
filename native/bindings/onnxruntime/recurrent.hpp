#pragma once

#include <vector>

#include "bindings/onnxruntime/operator.hpp"
#include "bindings/onnxruntime/session.hpp"
#include "isogrid/recurrent.hpp"

namespace isogrid::onnxruntime {

// One layer in one direction or in both: X [steps, batch, columns], W, R, W and R of the reverse direction?,
// B [directions, 2 * gates * units]?, initial_h?, initial_c? [directions, batch, units];
// Y [steps, directions, batch, units], Y_h?, Y_c? [directions, batch, units]. The c are the LSTM's.
class RecurrentNode {
  public:
    static void infer(const Inference& inference);

  protected:
    RecurrentNode(const Node& node, Cell cell);
    void run_cell(const Call& call) const;

  private:
    struct Run;
    void run_direction(const Run& run, std::size_t direction) const;
    std::shared_ptr<Recurrent> make_direction(const Node& node, std::size_t direction, bool reverse,
                                              const std::vector<float>* bias);

    std::shared_ptr<Session> session_;
    std::vector<std::shared_ptr<Recurrent>> directions_;
    Cell cell_;
    std::int64_t units_ = 0;
    std::int64_t columns_ = 0;
};

class SparseLSTM : public RecurrentNode {
  public:
    static constexpr const char* name = "SparseLSTM";
    static constexpr Port inputs[] = {{float32},
                                      {uint8},
                                      {uint8},
                                      {uint8, optional},
                                      {uint8, optional},
                                      {float32, optional},
                                      {float32, optional},
                                      {float32, optional}};
    static constexpr Port outputs[] = {{float32}, {float32, optional}, {float32, optional}};

    explicit SparseLSTM(const Node& node) : RecurrentNode(node, Cell::lstm) {}
    void run(const Call& call) const { run_cell(call); }
};

class SparseGRU : public RecurrentNode {
  public:
    static constexpr const char* name = "SparseGRU";
    static constexpr Port inputs[] = {
        {float32}, {uint8}, {uint8}, {uint8, optional}, {uint8, optional}, {float32, optional}, {float32, optional}};
    static constexpr Port outputs[] = {{float32}, {float32, optional}};

    explicit SparseGRU(const Node& node) : RecurrentNode(node, Cell::gru) {}
    void run(const Call& call) const { run_cell(call); }
};

}  // namespace isogrid::onnxruntime
