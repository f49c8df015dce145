#include "bindings/onnxruntime/recurrent.hpp"

#include <cstring>

#include "bindings/onnxruntime/weights.hpp"

namespace isogrid::onnxruntime {
namespace {

constexpr const char* weight_names[] = {"W", "R", "W of the reverse direction", "R of the reverse direction"};
constexpr std::size_t bias_input = 5;
constexpr std::size_t state_input = 6;  // of h; that of c follows

std::int64_t gates_of(Cell cell) {
    return cell == Cell::lstm ? 4 : 3;
}

using Floats = std::unique_ptr<float[]>;

// Where an output goes: to the runtime's memory, or to some of its own where nobody asked for it.
class Result {
  public:
    Result(const Call& call, std::size_t index, const Shape& shape) : data_(call.output(index, shape)) {
        if (data_ != nullptr) return;
        own_.reset(new float[static_cast<std::size_t>(shape.count(0, shape.axes))]);
        data_ = own_.get();
    }
    float* data() const { return data_; }

  private:
    Floats own_;
    float* data_;
};

const float* initial_state(const Call& call, std::size_t index, const char* name, const Shape& shape) {
    const auto state = call.input(index);
    if (!state) return nullptr;
    if (!(state->shape == shape)) {
        throw Error{std::string(name) + " has the shape " + state->shape.text() + ", accepted is " + shape.text()};
    }
    return state->floats();
}

}  // namespace

struct RecurrentNode::Run {
    Executor executor;
    const float* x;
    std::int64_t steps, batch;
    const float* h;
    const float* c;
    float* y;
    float* last_h;
    float* last_c;
};

RecurrentNode::RecurrentNode(const Node& node, Cell cell) : session_(Session::of(node)), cell_(cell) {
    units_ = node.integer("hidden_size", 1, max_matrix_side / 4);
    const std::string direction = node.text("direction", "forward");
    const bool both = direction == "bidirectional";
    if (!both && direction != "forward" && direction != "reverse") {
        throw Error{"the attribute direction is '" + direction + "', accepted are forward, reverse, bidirectional"};
    }
    const std::int64_t rows = gates_of(cell) * units_;
    const auto bias = constant_floats(node, bias_input, "B", {2, {both ? 2 : 1, 2 * rows}});
    if (!both && (node.has_input(3) || node.has_input(4))) {
        throw Error{"there are weights of the reverse direction, and the attribute direction is '" + direction + "'"};
    }
    directions_.push_back(make_direction(node, 0, direction == "reverse", bias ? &*bias : nullptr));
    if (both) directions_.push_back(make_direction(node, 1, true, bias ? &*bias : nullptr));
}

std::shared_ptr<Recurrent> RecurrentNode::make_direction(const Node& node, std::size_t direction, bool reverse,
                                                         const std::vector<float>* bias) {
    const Packed input = packed_input(node, 1 + 2 * direction, weight_names[2 * direction]);
    const Packed recurrent = packed_input(node, 2 + 2 * direction, weight_names[2 * direction + 1]);
    const std::int64_t rows = gates_of(cell_) * units_;
    if (direction == 0) columns_ = input.header.columns;
    const auto expect = [&](const Packed& packed, std::int64_t columns) {
        if (packed.header.rows == rows && packed.header.columns == columns) return;
        throw Error{std::string("the input ") + packed.input + " is " + std::to_string(packed.header.rows) + " x " +
                    std::to_string(packed.header.columns) + ", accepted is " + std::to_string(rows) + " x " +
                    std::to_string(columns)};
    };
    expect(input, columns_);
    expect(recurrent, units_);
    const PackedMatrix w = input.read();
    const PackedMatrix r = recurrent.read();
    const float* const biases =
        bias == nullptr ? nullptr : bias->data() + 2 * static_cast<std::size_t>(rows) * direction;
    const RecurrentWeights weights{cell_,    reverse, w.view(),
                                   r.view(), biases,  biases == nullptr ? nullptr : biases + rows};
    return made<Recurrent>([&](Recurrent** out) { return Recurrent::create(weights, out); });
}

void RecurrentNode::run_cell(const Call& call) const {
    const Tensor x = call.needed(0);
    if (x.shape.axes != 3 || x.shape.last() != columns_) {
        throw Error{"X has the shape " + x.shape.text() + ", accepted are three axes, the last of size " +
                    std::to_string(columns_)};
    }
    const bool lstm = cell_ == Cell::lstm;
    const auto directions = static_cast<std::int64_t>(directions_.size());
    const Shape all{4, {x.shape.size[0], directions, x.shape.size[1], units_}};
    const Shape last{3, {directions, x.shape.size[1], units_}};
    const float* const h = initial_state(call, state_input, "initial_h", last);
    const float* const c = lstm ? initial_state(call, state_input + 1, "initial_c", last) : nullptr;
    const Result y(call, 0, all);
    const Result last_h(call, 1, last);
    const Result last_c(call, 2, lstm ? last : Shape{1, {0}});
    Pool pool(call, *session_);
    const Run run{pool.executor(),
                  x.floats(),
                  x.shape.size[0],
                  x.shape.size[1],
                  h,
                  c,
                  y.data(),
                  last_h.data(),
                  lstm ? last_c.data() : nullptr};
    for (std::size_t direction = 0; direction < directions_.size(); ++direction) run_direction(run, direction);
}

void RecurrentNode::run_direction(const Run& run, std::size_t direction) const {
    const auto directions = static_cast<std::int64_t>(directions_.size());
    const std::int64_t state = run.batch * units_;  // floats of a state of this direction
    const auto at = static_cast<std::int64_t>(direction) * state;
    const auto place = [&](auto* base) { return base == nullptr ? nullptr : base + at; };
    const States states{place(run.h), place(run.c), place(run.last_h), place(run.last_c)};
    const Sequences sequences{run.x, run.steps, run.batch, nullptr};
    // The core wants the samples of all steps at one distance from each other, which those of two directions are not.
    if (directions == 1 || run.batch == 1) {
        const std::int64_t stride = directions * units_;
        check(directions_[direction]->run(run.executor, sequences, states, run.y + at, stride));
        return;
    }
    const Floats room(new float[static_cast<std::size_t>(run.steps * state)]);
    check(directions_[direction]->run(run.executor, sequences, states, room.get(), units_));
    if (state == 0) return;
    for (std::int64_t step = 0; step < run.steps; ++step) {
        std::memcpy(run.y + step * directions * state + at, room.get() + step * state,
                    static_cast<std::size_t>(state) * sizeof(float));
    }
}

void RecurrentNode::infer(const Inference& inference) {
    const auto units = inference.integer("hidden_size");
    const auto x = inference.input(0);
    if (!units || !x || x->size() != 3) return;
    const Dimension directions{inference.text("direction") == "bidirectional" ? 2 : 1, ""};
    inference.first_output({(*x)[0], directions, (*x)[1], {*units, ""}});
}

}  // namespace isogrid::onnxruntime
