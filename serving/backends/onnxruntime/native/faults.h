// What went wrong, and whose fault it is.
#pragma once

#include <stdexcept>
#include <string>

namespace leanrec {

// The caller's: no other server would answer him either. All other exceptions are faults of this server.
class BadRequest : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace leanrec
