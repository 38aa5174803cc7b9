// A graph opened by ONNX Runtime: what it takes, what it gives, and running it.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "onnxruntime_api.h"

namespace leanrec {

// An input or output of a graph.
struct Port {
  std::string name;
  OrtElementType type;
};

// Values that somebody else holds, in C order.
struct TensorView {
  OrtElementType type;
  std::vector<int64_t> shape;
  void* data;
  size_t bytes;
};

// What a run gave; `view` lies in `value`.
struct Result {
  std::shared_ptr<OrtValue> value;
  TensorView view;
};

// One session. Several threads may run it at once; it throws BadRequest or std::runtime_error with ONNX
// Runtime's words.
class Graph {
 public:
  Graph(const std::string& file, int intra_op_threads, int inter_op_threads);

  const std::vector<Port>& inputs() const { return inputs_; }
  const std::vector<Port>& outputs() const { return outputs_; }

  // Leaves out the other outputs from here on.
  void KeepOutputs(const std::set<std::string>& names);

  // Takes the inputs in the order of inputs() and gives the outputs in the order of outputs().
  std::vector<Result> Run(const std::vector<TensorView>& inputs) const;

 private:
  std::shared_ptr<OrtEnv> environment_;
  std::shared_ptr<OrtMemoryInfo> memory_;
  std::shared_ptr<OrtSession> session_;
  std::vector<Port> inputs_, outputs_;
  std::vector<const char*> input_names_, output_names_;
};

}  // namespace leanrec
