// From a class that knows what to compute to the struct of functions that the runtime calls.
#pragma once

#include <new>

#include "bindings/onnxruntime/host.hpp"

namespace isogrid::onnxruntime {

struct Port {
    int type;
    int characteristic = required;
};

// A Kernel has
//   static constexpr const char* name
//   static constexpr Port inputs[], outputs[]
//   explicit Kernel(const Node&)           checks all that does not depend on the run
//   void run(const Call&) const            from any number of threads
//   static void infer(const Inference&)    sets the shapes of the outputs, as far as they are known
template <class Kernel>
struct Operator : CustomOp {
    Table table = nullptr;

    explicit Operator(Table t) : CustomOp{}, table(t) {
        version = oldest_version;
        // These two must be there, and are not called beside the checked ones.
        create_kernel = [](const CustomOp*, Table, const OrtKernelInfo*) -> void* { return nullptr; };
        compute = [](void*, OrtKernelContext*) {};
        CustomOp::name = [](const CustomOp*) { return Kernel::name; };
        execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
        input_type = [](const CustomOp*, std::size_t i) { return Kernel::inputs[i].type; };
        input_count = [](const CustomOp*) { return std::size(Kernel::inputs); };
        output_type = [](const CustomOp*, std::size_t i) { return Kernel::outputs[i].type; };
        output_count = [](const CustomOp*) { return std::size(Kernel::outputs); };
        destroy = [](void* kernel) { delete static_cast<Made*>(kernel); };
        input_characteristic = [](const CustomOp*, std::size_t i) { return Kernel::inputs[i].characteristic; };
        output_characteristic = [](const CustomOp*, std::size_t i) { return Kernel::outputs[i].characteristic; };
        input_memory = [](const CustomOp*, std::size_t) { return 0; };
        variadic_input_arity = [](const CustomOp*) { return 1; };
        variadic_input_homogeneity = [](const CustomOp*) { return 1; };
        variadic_output_arity = [](const CustomOp*) { return 1; };
        variadic_output_homogeneity = [](const CustomOp*) { return 1; };
        create_kernel_checked = create;
        compute_checked = run;
        infer_shapes = infer;
        first_version = [](const CustomOp*) { return 1; };
        last_version = [](const CustomOp*) { return 1; };
    }

  private:
    struct Made {
        Table table;
        std::string who;
        Kernel kernel;
    };

    static OrtStatus* create(const CustomOp* self, Table, const OrtKernelInfo* info, void** made) noexcept {
        const Table table = static_cast<const Operator*>(self)->table;
        const Node node(table, info, Kernel::name);
        *made = nullptr;
        return guard(table, [&] { return node.who(); }, [&] { *made = new Made{table, node.who(), Kernel(node)}; });
    }

    static OrtStatus* run(void* kernel, OrtKernelContext* context) noexcept {
        const Made& made = *static_cast<Made*>(kernel);
        return guard(made.table, [&] { return made.who; }, [&] { made.kernel.run(Call(made.table, context)); });
    }

    static OrtStatus* infer(const CustomOp* self, OrtShapeInferContext* context) noexcept {
        const Table table = static_cast<const Operator*>(self)->table;
        return guard(
            table, [] { return std::string(Kernel::name); }, [&] { Kernel::infer(Inference(table, context)); });
    }
};

}  // namespace isogrid::onnxruntime
