// The element types of a tensor, by the names and numbers that the configuration, Triton and ONNX give them.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "faults.h"
#include "onnxruntime_api.h"
#include "triton_api.h"

namespace leanrec {

struct ElementType {
  const char* configured;
  TritonDataType triton;
  OrtElementType onnx;
  uint64_t bytes;
};

// Sources: TRITONSERVER_DataType in tritonserver.h; TensorProto.DataType in onnx.proto. Texts are not served.
constexpr ElementType kElementTypes[] = {
    {"TYPE_BOOL", 1, 9, 1},    {"TYPE_UINT8", 2, 2, 1},  {"TYPE_UINT16", 3, 4, 2}, {"TYPE_UINT32", 4, 12, 4},
    {"TYPE_UINT64", 5, 13, 8}, {"TYPE_INT8", 6, 3, 1},   {"TYPE_INT16", 7, 5, 2},  {"TYPE_INT32", 8, 6, 4},
    {"TYPE_INT64", 9, 7, 8},   {"TYPE_FP16", 10, 10, 2}, {"TYPE_FP32", 11, 1, 4},  {"TYPE_FP64", 12, 11, 8},
    {"TYPE_BF16", 14, 16, 2},
};

// Null where such tensors are not served.
inline const ElementType* FindOnnxType(OrtElementType onnx) {
  for (const ElementType& type : kElementTypes) {
    if (type.onnx == onnx) return &type;
  }
  return nullptr;
}

inline const ElementType& OnnxType(OrtElementType onnx) {
  const ElementType* type = FindOnnxType(onnx);
  if (type == nullptr)
    throw std::runtime_error("ONNX's element type " + std::to_string(onnx) + " is not served");
  return *type;
}

// Bytes of a tensor; a shape whose size does not fit 63 bits, or with a negative dimension, is refused.
inline uint64_t BytesOf(const std::vector<int64_t>& shape, const ElementType& type) {
  int64_t bytes = static_cast<int64_t>(type.bytes);
  for (const int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(bytes, dimension, &bytes)) {
      throw BadRequest("a tensor's shape is out of range");
    }
  }
  return static_cast<uint64_t>(bytes);
}

}  // namespace leanrec
