// The part of ONNX Runtime's C interface that the backend calls.
//
// The wheel `onnxruntime` carries the library and no header. The library hands out one table of functions
// whose order never changes: new ones are only ever added at its end. Each row below names a place in it.
//
// Source: onnxruntime.ai/docs/api/c, struct OrtApi (places 0 to 101 since version 1, 130 since version 5).
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtAllocator;
struct OrtEnv;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

using OrtElementType = int;  // ONNX's own numbers, TensorProto.DataType
constexpr int kOrtLogErrors = 3;
constexpr int kOrtInvalidArgument = 2;  // of error codes
constexpr int kOrtArenaAllocator = 1;
constexpr int kOrtMemTypeDefault = 0;
constexpr uint32_t kOrtApiVersion = 11;

// F(place, what it returns, name, parameters)
#define LEANREC_ORT_FUNCTIONS(F)                                                                             \
  F(1, int, GetErrorCode, (const OrtStatus*))                                                                \
  F(2, const char*, GetErrorMessage, (const OrtStatus*))                                                     \
  F(3, OrtStatus*, CreateEnv, (int severity, const char* name, OrtEnv**))                                    \
  F(7, OrtStatus*, CreateSession, (const OrtEnv*, const char* path, const OrtSessionOptions*, OrtSession**)) \
  F(9, OrtStatus*, Run,                                                                                      \
    (OrtSession*, const OrtRunOptions*, const char* const* input_names, const OrtValue* const* inputs,       \
     size_t input_count, const char* const* output_names, size_t output_count, OrtValue** outputs))          \
  F(10, OrtStatus*, CreateSessionOptions, (OrtSessionOptions**))                                             \
  F(24, OrtStatus*, SetIntraOpNumThreads, (OrtSessionOptions*, int))                                         \
  F(25, OrtStatus*, SetInterOpNumThreads, (OrtSessionOptions*, int))                                         \
  F(30, OrtStatus*, SessionGetInputCount, (const OrtSession*, size_t*))                                      \
  F(31, OrtStatus*, SessionGetOutputCount, (const OrtSession*, size_t*))                                     \
  F(33, OrtStatus*, SessionGetInputTypeInfo, (const OrtSession*, size_t, OrtTypeInfo**))                     \
  F(34, OrtStatus*, SessionGetOutputTypeInfo, (const OrtSession*, size_t, OrtTypeInfo**))                    \
  F(36, OrtStatus*, SessionGetInputName, (const OrtSession*, size_t, OrtAllocator*, char**))                 \
  F(37, OrtStatus*, SessionGetOutputName, (const OrtSession*, size_t, OrtAllocator*, char**))                \
  F(49, OrtStatus*, CreateTensorWithDataAsOrtValue,                                                          \
    (const OrtMemoryInfo*, void* data, size_t bytes, const int64_t* shape, size_t rank, OrtElementType,      \
     OrtValue**))                                                                                            \
  F(51, OrtStatus*, GetTensorMutableData, (OrtValue*, void**))                                               \
  F(55, OrtStatus*, CastTypeInfoToTensorInfo, (const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**))       \
  F(60, OrtStatus*, GetTensorElementType, (const OrtTensorTypeAndShapeInfo*, OrtElementType*))               \
  F(61, OrtStatus*, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo*, size_t*))                         \
  F(62, OrtStatus*, GetDimensions, (const OrtTensorTypeAndShapeInfo*, int64_t*, size_t))                     \
  F(65, OrtStatus*, GetTensorTypeAndShape, (const OrtValue*, OrtTensorTypeAndShapeInfo**))                   \
  F(69, OrtStatus*, CreateCpuMemoryInfo, (int allocator, int memory, OrtMemoryInfo**))                       \
  F(76, OrtStatus*, AllocatorFree, (OrtAllocator*, void*))                                                   \
  F(78, OrtStatus*, GetAllocatorWithDefaultOptions, (OrtAllocator**))                                        \
  F(92, void, ReleaseEnv, (OrtEnv*))                                                                         \
  F(93, void, ReleaseStatus, (OrtStatus*))                                                                   \
  F(94, void, ReleaseMemoryInfo, (OrtMemoryInfo*))                                                           \
  F(95, void, ReleaseSession, (OrtSession*))                                                                 \
  F(96, void, ReleaseValue, (OrtValue*))                                                                     \
  F(98, void, ReleaseTypeInfo, (OrtTypeInfo*))                                                               \
  F(99, void, ReleaseTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo*))                                   \
  F(100, void, ReleaseSessionOptions, (OrtSessionOptions*))                                                  \
  F(130, OrtStatus*, AddSessionConfigEntry, (OrtSessionOptions*, const char* key, const char* value))

struct OrtFunctions {
#define LEANREC_MEMBER(place, result, name, parameters) result(*name) parameters;
  LEANREC_ORT_FUNCTIONS(LEANREC_MEMBER)
#undef LEANREC_MEMBER
};

extern "C" {
struct OrtApiBase {
  void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};
const OrtApiBase* OrtGetApiBase();
}
