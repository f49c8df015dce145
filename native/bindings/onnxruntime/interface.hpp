// The part of ONNX Runtime's C interface that is used here, in our own words: no header of it is needed to build this.
//
// `OrtApi` is a table of functions that only ever grows at its end, so an entry is named by its place in it. The layout
// of `CustomOp` is that of version 17 of the interface (ONNX Runtime 1.17), where the thread pool became reachable.
#pragma once

#include <cstddef>
#include <cstdint>

namespace isogrid::onnxruntime {

inline constexpr std::uint32_t oldest_version = 17;

// Objects of the runtime, known by address only.
struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;
struct OrtLogger;

enum ErrorCode : int { fail = 1, invalid_argument = 2, not_implemented = 9 };
enum ElementType : int { undefined = 0, float32 = 1, uint8 = 2, int32 = 6, int64 = 7 };
enum Characteristic : int { required = 0, optional = 1 };

using Function = void (*)();
using Table = const Function*;

struct OrtApiBase {
    Table (*get_api)(std::uint32_t version);  // null where the runtime is older than that
    const char* (*version)();
};

// An entry of the table: Entry<SLOT, RESULT, ARGUMENTS ...>::of(table)(arguments ...).
template <int slot, class Result, class... Arguments>
struct Entry {
    using Type = Result (*)(Arguments...);
    static Type of(Table table) noexcept { return reinterpret_cast<Type>(table[slot]); }
};

namespace entry {

template <int slot, class... Arguments>
using Checked = Entry<slot, OrtStatus*, Arguments...>;

using CreateStatus = Entry<0, OrtStatus*, int, const char*>;
using GetErrorMessage = Entry<2, const char*, const OrtStatus*>;
using CreateCustomOpDomain = Checked<26, const char*, OrtCustomOpDomain**>;
using DomainAdd = Checked<27, OrtCustomOpDomain*, const void*>;
using AddDomain = Checked<28, OrtSessionOptions*, OrtCustomOpDomain*>;
using GetTensorData = Checked<51, OrtValue*, void**>;
using CreateShape = Checked<57, OrtTensorTypeAndShapeInfo**>;
using SetElementType = Checked<58, OrtTensorTypeAndShapeInfo*, int>;
using SetDimensions = Checked<59, OrtTensorTypeAndShapeInfo*, const std::int64_t*, std::size_t>;
using GetElementType = Checked<60, const OrtTensorTypeAndShapeInfo*, int*>;
using GetDimensionsCount = Checked<61, const OrtTensorTypeAndShapeInfo*, std::size_t*>;
using GetDimensions = Checked<62, const OrtTensorTypeAndShapeInfo*, std::int64_t*, std::size_t>;
using GetSymbolicDimensions = Checked<63, const OrtTensorTypeAndShapeInfo*, const char**, std::size_t>;
using GetTypeAndShape = Checked<65, const OrtValue*, OrtTensorTypeAndShapeInfo**>;
using InfoAttributeFloat = Checked<85, const OrtKernelInfo*, const char*, float*>;
using InfoAttributeInt = Checked<86, const OrtKernelInfo*, const char*, std::int64_t*>;
using InfoAttributeString = Checked<87, const OrtKernelInfo*, const char*, char*, std::size_t*>;
using ContextInputCount = Checked<88, const OrtKernelContext*, std::size_t*>;
using ContextOutputCount = Checked<89, const OrtKernelContext*, std::size_t*>;
using ContextInput = Checked<90, const OrtKernelContext*, std::size_t, const OrtValue**>;
using ContextOutput = Checked<91, OrtKernelContext*, std::size_t, const std::int64_t*, std::size_t, OrtValue**>;
using ReleaseStatus = Entry<93, void, OrtStatus*>;
using ReleaseShape = Entry<99, void, OrtTensorTypeAndShapeInfo*>;
using InfoAttributeInts = Checked<163, const OrtKernelInfo*, const char*, std::int64_t*, std::size_t*>;
using InfoInputCount = Checked<230, const OrtKernelInfo*, std::size_t*>;
using InfoInputName = Checked<232, const OrtKernelInfo*, std::size_t, char*, std::size_t*>;
using InfoNodeName = Checked<244, const OrtKernelInfo*, char*, std::size_t*>;
using InfoLogger = Checked<245, const OrtKernelInfo*, const OrtLogger**>;
using InfoConstantInput = Checked<249, const OrtKernelInfo*, std::size_t, int*, const OrtValue**>;
using InferInputCount = Checked<267, const OrtShapeInferContext*, std::size_t*>;
using InferInput = Checked<268, const OrtShapeInferContext*, std::size_t, OrtTensorTypeAndShapeInfo**>;
using InferAttribute = Checked<269, const OrtShapeInferContext*, const char*, const void**>;
using InferOutput = Checked<270, const OrtShapeInferContext*, std::size_t, const OrtTensorTypeAndShapeInfo*>;
using SetSymbolicDimensions = Checked<271, OrtTensorTypeAndShapeInfo*, const char**, std::size_t>;
using ReadAttribute = Checked<272, const void*, int, void*, std::size_t, std::size_t*>;
using ParallelFor =
    Checked<274, const OrtKernelContext*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*>;

}  // namespace entry

// What an operator is to the runtime. Each function is given this very struct, but for those that are given a kernel.
struct CustomOp {
    std::uint32_t version;
    void* (*create_kernel)(const CustomOp*, Table, const OrtKernelInfo*);
    const char* (*name)(const CustomOp*);
    const char* (*execution_provider)(const CustomOp*);
    int (*input_type)(const CustomOp*, std::size_t);
    std::size_t (*input_count)(const CustomOp*);
    int (*output_type)(const CustomOp*, std::size_t);
    std::size_t (*output_count)(const CustomOp*);
    void (*compute)(void* kernel, OrtKernelContext*);
    void (*destroy)(void* kernel);
    int (*input_characteristic)(const CustomOp*, std::size_t);
    int (*output_characteristic)(const CustomOp*, std::size_t);
    int (*input_memory)(const CustomOp*, std::size_t);
    int (*variadic_input_arity)(const CustomOp*);
    int (*variadic_input_homogeneity)(const CustomOp*);
    int (*variadic_output_arity)(const CustomOp*);
    int (*variadic_output_homogeneity)(const CustomOp*);
    OrtStatus* (*create_kernel_checked)(const CustomOp*, Table, const OrtKernelInfo*, void** kernel);
    OrtStatus* (*compute_checked)(void* kernel, OrtKernelContext*);
    OrtStatus* (*infer_shapes)(const CustomOp*, OrtShapeInferContext*);
    int (*first_version)(const CustomOp*);
    int (*last_version)(const CustomOp*);
};

}  // namespace isogrid::onnxruntime
