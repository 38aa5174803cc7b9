// Triton's backend named `onnxruntime`: it serves `<version>/model.onnx` inside the server's own process.
//
// What LeanRec publishes is served by NVIDIA's backend of this name, too. Of that one's parameters this one
// reads `intra_op_thread_count` and `inter_op_thread_count`, threads of each instance; without the first the
// instances share the cores of this host. They share one session, so a model's weights are held once.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <set>

#include "configuration.h"
#include "element_types.h"
#include "graph.h"
#include "triton_api.h"
#include "triton_calls.h"

namespace leanrec {
namespace {

using Shape = std::vector<int64_t>;

uint64_t Now() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

void CheckIsOfTheHost(int memory_kind) {
  if (memory_kind != kTritonMemoryCpu && memory_kind != kTritonMemoryPinned) {
    throw BadRequest("tensors in a device's memory are not served");
  }
}

// Memory at addresses that ONNX Runtime's vector instructions like, whatever the message's own layout was.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : data_(std::aligned_alloc(kAlignment, Rounded(bytes)), std::free) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  char* data() const { return static_cast<char*>(data_.get()); }

 private:
  static constexpr size_t kAlignment = 64;
  static size_t Rounded(size_t bytes) {
    return std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  }
  std::unique_ptr<void, void (*)(void*)> data_;
};

// A tensor of a request, still where Triton holds it, perhaps in pieces.
struct Received {
  TRITONBACKEND_Input* input;
  uint32_t pieces;
  Shape shape;
  uint64_t bytes;

  void CopyTo(char* target) const {
    uint64_t copied = 0;
    for (uint32_t piece = 0; piece < pieces; ++piece) {
      const void* data = nullptr;
      uint64_t length = 0;
      int kind = kTritonMemoryCpu;
      int64_t device = 0;
      Check(TRITONBACKEND_InputBuffer(input, piece, &data, &length, &kind, &device));
      CheckIsOfTheHost(kind);
      if (length > bytes - copied) throw std::runtime_error("an input's pieces are longer than the input");
      if (length != 0) std::memcpy(target + copied, data, length);
      copied += length;
    }
    if (copied != bytes) throw std::runtime_error("an input's pieces are shorter than the input");
  }
};

using Outputs = std::shared_ptr<const std::vector<Result>>;

// A request on its way: what it sent, then the rows of a run that answer it, or what went wrong.
struct Ask {
  TRITONBACKEND_Request* request;
  std::vector<Received> received;
  Outputs outputs;
  int64_t first_row = 0, rows = 0, all_rows = 0;
  OwnedError error;
  bool answered = false;
};

class Model {
 public:
  explicit Model(TRITONBACKEND_Model* model) {
    const Configuration configuration = ReadConfiguration(model);
    batches_ = configuration.batches;
    try {
      graph_ = std::make_unique<Graph>(configuration.file, configuration.intra_op_threads,
                                       configuration.inter_op_threads);
    } catch (const std::exception& error) {
      throw std::runtime_error(configuration.file + ": ONNX Runtime refuses it: " + error.what());
    }
    CheckPorts(configuration, "input", configuration.inputs, graph_->inputs());
    CheckPorts(configuration, "output", configuration.outputs, graph_->outputs());
    std::set<std::string> names;
    for (const auto& [name, type] : configuration.outputs) names.insert(name);
    graph_->KeepOutputs(names);
  }

  // Answers every request; those of one shape run as one batch, and a fault fails its request only.
  void Answer(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, uint32_t count) const {
    const uint64_t start = Now();
    std::vector<Ask> asks(count);
    std::map<std::vector<Shape>, std::vector<Ask*>> groups;
    for (uint32_t index = 0; index < count; ++index) {
      Ask& ask = asks[index];
      ask.request = requests[index];
      ask.error = Guarded([&] { Read(ask); });
      if (ask.error == nullptr) groups[KindOf(ask, index)].push_back(&ask);
    }
    const uint64_t compute_start = Now();
    for (const auto& [kind, members] : groups) RunTogether(members);
    const uint64_t compute_end = Now();
    for (Ask& ask : asks) Send(ask);
    const uint64_t end = Now();
    uint64_t rows = 0;
    for (Ask& ask : asks) {
      rows += batches_ ? static_cast<uint64_t>(ask.rows) : 1;
      Ignore(TRITONBACKEND_ModelInstanceReportStatistics(instance, ask.request, ask.answered, start,
                                                         compute_start, compute_end, end));
      Ignore(TRITONBACKEND_RequestRelease(ask.request, kTritonReleaseAll));
    }
    Ignore(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, rows, start, compute_start, compute_end,
                                                            end));
  }

 private:
  void Read(Ask& ask) const {
    for (const Port& port : graph_->inputs()) {
      Received received{};
      const int64_t* shape = nullptr;
      uint32_t rank = 0;
      TritonDataType type = 0;
      Check(TRITONBACKEND_RequestInput(ask.request, port.name.c_str(), &received.input));
      Check(TRITONBACKEND_InputProperties(received.input, nullptr, &type, &shape, &rank, &received.bytes,
                                          &received.pieces));
      received.shape.assign(shape, shape + rank);
      const ElementType& expected = OnnxType(port.type);
      if (type != expected.triton || received.bytes != BytesOf(received.shape, expected)) {
        throw BadRequest("input " + port.name + " has " + std::to_string(received.bytes) +
                         " bytes, not the " + std::to_string(BytesOf(received.shape, expected)) +
                         " of its shape in " + expected.configured);
      }
      if (batches_ && rank == 0) throw BadRequest("input " + port.name + " has no dimension for its rows");
      ask.received.push_back(std::move(received));
    }
    ask.rows = batches_ && !ask.received.empty() ? ask.received.front().shape.at(0) : 1;
  }

  // Requests of one kind fit into one batch: all their shapes agree but for the number of rows.
  std::vector<Shape> KindOf(const Ask& ask, uint32_t index) const {
    if (!batches_) return {{static_cast<int64_t>(index)}};
    std::vector<Shape> kind;
    for (const Received& received : ask.received)
      kind.emplace_back(received.shape.begin() + 1, received.shape.end());
    return kind;
  }

  // Runs the requests as one batch; where that fails, each one alone.
  void RunTogether(const std::vector<Ask*>& asks) const {
    OwnedError error = Guarded([&] { Run(asks); });
    if (error == nullptr) return;
    if (asks.size() == 1) {
      asks.front()->error = std::move(error);
    } else {
      for (Ask* ask : asks) RunTogether({ask});
    }
  }

  void Run(const std::vector<Ask*>& asks) const {
    int64_t rows = 0;
    for (Ask* ask : asks) {
      ask->first_row = rows;
      rows += ask->rows;
    }
    std::vector<Buffer> buffers;
    std::vector<TensorView> inputs;
    for (size_t index = 0; index < graph_->inputs().size(); ++index) {
      TensorView view{graph_->inputs()[index].type, asks.front()->received[index].shape, nullptr, 0};
      if (batches_) view.shape.at(0) = rows;
      for (const Ask* ask : asks) view.bytes += ask->received[index].bytes;
      buffers.emplace_back(view.bytes);
      view.data = buffers.back().data();
      char* target = buffers.back().data();
      for (const Ask* ask : asks) {
        ask->received[index].CopyTo(target);
        target += ask->received[index].bytes;
      }
      inputs.push_back(std::move(view));
    }
    const Outputs outputs = std::make_shared<const std::vector<Result>>(graph_->Run(inputs));
    for (size_t index = 0; index < outputs->size(); ++index) {
      const Shape& shape = (*outputs)[index].view.shape;
      if (asks.size() > 1 && (shape.empty() || shape.front() != rows)) {
        throw std::runtime_error("output " + graph_->outputs()[index].name +
                                 " does not have a row for each of the input");
      }
    }
    for (Ask* ask : asks) {
      ask->outputs = outputs;
      ask->all_rows = rows;
    }
  }

  // Nothing may fail from here on: Triton would answer and release the requests a second time.
  void Send(Ask& ask) const noexcept {
    TRITONBACKEND_Response* response = nullptr;
    const OwnedError impossible(TRITONBACKEND_ResponseNew(&response, ask.request));
    if (impossible != nullptr) return;
    if (ask.error == nullptr) ask.error = Guarded([&] { Fill(response, ask); });
    ask.answered = ask.error == nullptr;
    Ignore(TRITONBACKEND_ResponseSend(response, kTritonFinal, ask.error.get()));
  }

  // Gives a request the rows that are its own, of the outputs that it asked for.
  void Fill(TRITONBACKEND_Response* response, const Ask& ask) const {
    uint32_t count = 0;
    Check(TRITONBACKEND_RequestOutputCount(ask.request, &count));
    for (uint32_t index = 0; index < count; ++index) {
      const char* name = nullptr;
      Check(TRITONBACKEND_RequestOutputName(ask.request, index, &name));
      const std::vector<Port>& ports = graph_->outputs();
      const auto port =
          std::find_if(ports.begin(), ports.end(), [&](const Port& each) { return each.name == name; });
      if (port == ports.end()) throw std::runtime_error(std::string("the graph has no output ") + name);
      const TensorView& whole = (*ask.outputs)[static_cast<size_t>(port - ports.begin())].view;
      const ElementType& type = OnnxType(whole.type);
      const bool shared = ask.rows != ask.all_rows;
      Shape shape = whole.shape;
      if (shared) shape.at(0) = ask.rows;
      const uint64_t bytes = BytesOf(shape, type);
      const uint64_t row_bytes = bytes / static_cast<uint64_t>(std::max<int64_t>(1, ask.rows));
      const uint64_t skipped = row_bytes * static_cast<uint64_t>(ask.first_row);
      TRITONBACKEND_Output* output = nullptr;
      void* target = nullptr;
      int kind = kTritonMemoryCpu;
      int64_t device = 0;
      Check(TRITONBACKEND_ResponseOutput(response, &output, name, type.triton, shape.data(),
                                         static_cast<uint32_t>(shape.size())));
      Check(TRITONBACKEND_OutputBuffer(output, &target, bytes, &kind, &device));
      CheckIsOfTheHost(kind);
      if (bytes != 0) std::memcpy(target, static_cast<const char*>(whole.data) + skipped, bytes);
    }
  }

  std::unique_ptr<Graph> graph_;
  bool batches_ = false;
};

}  // namespace
}  // namespace leanrec

// Does something for Triton, which owns the error from then on.
template <typename Do>
TritonError Released(Do action) {
  return leanrec::Guarded(action).release();
}

#define LEANREC_EXPORTED extern "C" __attribute__((visibility("default")))

LEANREC_EXPORTED TritonError TRITONBACKEND_Initialize(TRITONBACKEND_Backend*) {
  return Released([] {
    uint32_t major = 0, minor = 0;
    leanrec::Check(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major != kTritonMajor) {
      throw std::runtime_error("Triton's backend interface is of version " + std::to_string(major) +
                               ", and this backend is written for " + std::to_string(kTritonMajor));
    }
  });
}

LEANREC_EXPORTED TritonError TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return Released([&] {
    auto served = std::make_unique<leanrec::Model>(model);
    leanrec::Check(TRITONBACKEND_ModelSetState(model, served.get()));
    served.release();
  });
}

LEANREC_EXPORTED TritonError TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return Released([&] {
    void* state = nullptr;
    leanrec::Check(TRITONBACKEND_ModelState(model, &state));
    delete static_cast<leanrec::Model*>(state);
  });
}

LEANREC_EXPORTED TritonError TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                                TRITONBACKEND_Request** requests,
                                                                uint32_t count) {
  return Released([&] {
    TRITONBACKEND_Model* model = nullptr;
    void* state = nullptr;
    leanrec::Check(TRITONBACKEND_ModelInstanceModel(instance, &model));
    leanrec::Check(TRITONBACKEND_ModelState(model, &state));
    static_cast<const leanrec::Model*>(state)->Answer(instance, requests, count);
  });
}
