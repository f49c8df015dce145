// The extension module isogrid._native. Files named python*.cpp are the only ones of the core that know Python: they
// convert arguments, release the interpreter lock around the work, and turn a status into an exception.
#include "bindings/python.hpp"

#include "isogrid/cpu.hpp"

namespace nb = nanobind;

namespace {

nb::dict cpu_features() {
    const isogrid::CpuFeatures cpu = isogrid::cpu_features();
    nb::dict features;
    features["architecture"] = cpu.architecture;
    features["model"] = nb::str(cpu.model).attr("strip")();
    features["avx"] = cpu.avx;
    features["avx2"] = cpu.avx2;
    features["fma"] = cpu.fma;
    features["f16c"] = cpu.f16c;
    features["avx512f"] = cpu.avx512f;
    features["avx512bw"] = cpu.avx512bw;
    features["avx512dq"] = cpu.avx512dq;
    features["avx512vl"] = cpu.avx512vl;
    features["avx512vnni"] = cpu.avx512vnni;
    features["neon"] = cpu.neon;
    return features;
}

}  // namespace

NB_MODULE(_native, module) {
    module.doc() =
        "The native core of Isogrid: codecs of sparse positions, sparse operations, and what this processor can do.";
    module.attr("version") = ISOGRID_VERSION;
    module.def("cpu_features", &cpu_features,
               "What this processor can do: names to flags, and its architecture and model.");
    add_codec(module);
    add_engine(module);
    add_recurrent(module);
}
