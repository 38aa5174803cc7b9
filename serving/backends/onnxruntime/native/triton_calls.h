// Errors of Triton's calls, as exceptions or as nothing.
#pragma once

#include <stdexcept>
#include <string>

#include "triton_api.h"

namespace leanrec {

inline void Check(TritonError error) {
  if (error == nullptr) return;
  const std::string words = TRITONSERVER_ErrorMessage(error);
  TRITONSERVER_ErrorDelete(error);
  throw std::runtime_error(words);
}

// For calls after which there is nobody left to tell.
inline void Ignore(TritonError error) {
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

}  // namespace leanrec
