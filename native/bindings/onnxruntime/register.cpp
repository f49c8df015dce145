// The one function that the library shows.
#include <array>
#include <cstdio>
#include <limits>
#include <map>
#include <mutex>

#include "bindings/onnxruntime/convolution.hpp"
#include "bindings/onnxruntime/gather.hpp"
#include "bindings/onnxruntime/linear.hpp"
#include "bindings/onnxruntime/recurrent.hpp"

namespace isogrid::onnxruntime {
namespace {

// Before 1.24 the runtime could not look at the inputs of a node that leaves an optional one out without falling over,
// whatever the operator asks it. The shapes that a file brings along are all that is known there.
constexpr int infers_shapes = 24;

int minor_version(const char* text) {
    int major = 0;
    int minor = 0;
    return std::sscanf(text, "%d.%d", &major, &minor) == 2 && major == 1 ? minor : std::numeric_limits<int>::max();
}

// Never deleted: the runtime keeps addresses of all of it, and does not tell when it is done. A process may have more
// than one runtime in it.
class Operators {
  public:
    static Operators& of(Table table, int version) {
        static std::mutex mutex;
        static auto& known = *new std::map<Table, Operators>;
        const std::lock_guard<std::mutex> lock(mutex);
        return known.try_emplace(table, table, version).first->second;
    }

    void add_to(OrtSessionOptions* options) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (domain_ == nullptr) make_domain();
        check(table_, entry::AddDomain::of(table_)(options, domain_));
    }

    Operators(Table table, int version)
        : table_(table), linear_(table), convolution_(table), gather_(table), lstm_(table), gru_(table) {
        if (version >= infers_shapes) return;
        for (CustomOp* const op : all()) op->infer_shapes = nullptr;
    }

  private:
    std::array<CustomOp*, 5> all() { return {&linear_, &convolution_, &gather_, &lstm_, &gru_}; }

    void make_domain() {
        OrtCustomOpDomain* domain = nullptr;
        check(table_, entry::CreateCustomOpDomain::of(table_)("isogrid", &domain));
        for (const CustomOp* const op : all()) check(table_, entry::DomainAdd::of(table_)(domain, op));
        domain_ = domain;
    }

    Table table_;
    std::mutex mutex_;
    OrtCustomOpDomain* domain_ = nullptr;
    Operator<SparseLinear> linear_;
    Operator<SparseConv> convolution_;
    Operator<SparseGather> gather_;
    Operator<SparseLSTM> lstm_;
    Operator<SparseGRU> gru_;
};

}  // namespace
}  // namespace isogrid::onnxruntime

extern "C" __attribute__((visibility("default"))) isogrid::onnxruntime::OrtStatus* RegisterCustomOps(
    isogrid::onnxruntime::OrtSessionOptions* options, const isogrid::onnxruntime::OrtApiBase* base) {
    using namespace isogrid::onnxruntime;
    const Table table = base->get_api(oldest_version);
    if (table == nullptr) {
        const Table old = base->get_api(1);
        // Without any table there is no way to complain; models with our operators will not load.
        if (old == nullptr) return nullptr;
        return status_of(old, "isogrid",
                         {std::string("ONNX Runtime ") + base->version() + " is too old, 1.17 is the oldest accepted",
                          not_implemented});
    }
    const auto who = [] { return std::string("isogrid"); };
    return guard(table, who, [&] { Operators::of(table, minor_version(base->version())).add_to(options); });
}
