// Errors of Triton's calls, as exceptions and back.
#pragma once

#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "faults.h"
#include "triton_api.h"

namespace leanrec {

struct DeleteError {
  void operator()(TritonError error) const { TRITONSERVER_ErrorDelete(error); }
};
using OwnedError = std::unique_ptr<TRITONSERVER_Error, DeleteError>;

inline void Check(TritonError error) {
  if (error == nullptr) return;
  const OwnedError owned(error);
  const std::string words = TRITONSERVER_ErrorMessage(error);
  if (TRITONSERVER_ErrorCode(error) == kTritonInvalidArgument) throw BadRequest(words);
  throw std::runtime_error(words);
}

// For calls after which there is nobody left to tell.
inline void Ignore(TritonError error) { const OwnedError owned(error); }

// No exception may leave for Triton, which is not built to catch it.
template <typename Do>
OwnedError Guarded(Do action) noexcept {
  try {
    action();
    return nullptr;
  } catch (const BadRequest& error) {
    return OwnedError(TRITONSERVER_ErrorNew(kTritonInvalidArgument, error.what()));
  } catch (const std::exception& error) {
    return OwnedError(TRITONSERVER_ErrorNew(kTritonInternal, error.what()));
  }
}

}  // namespace leanrec
