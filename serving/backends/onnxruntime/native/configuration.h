// What a model's config.pbtxt says to the backend.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "graph.h"
#include "triton_api.h"

namespace leanrec {

constexpr char kModelFile[] = "model.onnx";

// Tensor -> the name of its element type.
using Tensors = std::map<std::string, std::string>;

struct Configuration {
  std::string file;                        // the graph's
  bool batches;                            // whether the first dimension counts rows
  int intra_op_threads, inter_op_threads;  // of the session that all instances share
  Tensors inputs, outputs;
};

// Throws std::runtime_error with a sentence that names what is wrong.
Configuration ReadConfiguration(TRITONBACKEND_Model* model);

// The configured tensors must be the graph's: the same inputs, some of the outputs, of the same element
// types.
void CheckPorts(const Configuration& configuration, const std::string& kind, const Tensors& configured,
                const std::vector<Port>& ports);

}  // namespace leanrec
