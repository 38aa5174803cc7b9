#include "graph.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>

#include "faults.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace leanrec {
namespace {

const OrtFunctions& Ort() {
  static const OrtFunctions functions = [] {
    void* const* table = OrtGetApiBase()->GetApi(kOrtApiVersion);
    if (table == nullptr) {
      throw std::runtime_error(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() +
                               " has another interface than version " + std::to_string(kOrtApiVersion));
    }
    OrtFunctions found{};
#define LEANREC_FIND(place, result, name, parameters) \
  found.name = reinterpret_cast<decltype(found.name)>(table[place]);
    LEANREC_ORT_FUNCTIONS(LEANREC_FIND)
#undef LEANREC_FIND
    return found;
  }();
  return functions;
}

void Check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string words = Ort().GetErrorMessage(status);
  const bool is_the_callers = Ort().GetErrorCode(status) == kOrtInvalidArgument;
  Ort().ReleaseStatus(status);
  if (is_the_callers) throw BadRequest(words);
  throw std::runtime_error(words);
}

// `make` fills a pointer; what it points to is released with the last owner.
template <typename T, typename Make>
std::shared_ptr<T> Own(void (*release)(T*), Make make) {
  T* made = nullptr;
  Check(make(&made));
  return std::shared_ptr<T>(made, release);
}

// All graphs of the process log through one environment, which ends with the last of them.
std::shared_ptr<OrtEnv> Environment() {
  static std::mutex mutex;
  static std::weak_ptr<OrtEnv> shared;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<OrtEnv> environment = shared.lock();
  if (environment == nullptr) {
    environment = Own<OrtEnv>(Ort().ReleaseEnv,
                              [](OrtEnv** made) { return Ort().CreateEnv(kOrtLogErrors, "leanrec", made); });
    shared = environment;
  }
  return environment;
}

// What restoring compressed tables left behind; glibc would keep it for as long as the server lives.
void GiveBackFreeMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

using CountOf = OrtStatus* (*)(const OrtSession*, size_t*);
using NameOf = OrtStatus* (*)(const OrtSession*, size_t, OrtAllocator*, char**);
using TypeOf = OrtStatus* (*)(const OrtSession*, size_t, OrtTypeInfo**);

std::vector<Port> Ports(const OrtSession* session, CountOf count_of, NameOf name_of, TypeOf type_of) {
  OrtAllocator* allocator = nullptr;
  Check(Ort().GetAllocatorWithDefaultOptions(&allocator));
  size_t count = 0;
  Check(count_of(session, &count));
  std::vector<Port> ports(count);
  for (size_t index = 0; index < count; ++index) {
    char* name = nullptr;
    Check(name_of(session, index, allocator, &name));
    ports[index].name = name;
    Check(Ort().AllocatorFree(allocator, name));
    const auto info = Own<OrtTypeInfo>(Ort().ReleaseTypeInfo,
                                       [&](OrtTypeInfo** made) { return type_of(session, index, made); });
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    Check(Ort().CastTypeInfoToTensorInfo(info.get(), &tensor));
    if (tensor == nullptr) throw std::runtime_error(ports[index].name + " is not a tensor");
    Check(Ort().GetTensorElementType(tensor, &ports[index].type));
  }
  return ports;
}

std::vector<const char*> Names(const std::vector<Port>& ports) {
  std::vector<const char*> names;
  for (const Port& port : ports) names.push_back(port.name.c_str());
  return names;
}

TensorView ViewOf(OrtValue* value) {
  const auto info = Own<OrtTensorTypeAndShapeInfo>(
      Ort().ReleaseTensorTypeAndShapeInfo,
      [&](OrtTensorTypeAndShapeInfo** made) { return Ort().GetTensorTypeAndShape(value, made); });
  TensorView view{};
  size_t rank = 0;
  Check(Ort().GetTensorElementType(info.get(), &view.type));
  Check(Ort().GetDimensionsCount(info.get(), &rank));
  view.shape.resize(rank);
  Check(Ort().GetDimensions(info.get(), view.shape.data(), rank));
  Check(Ort().GetTensorMutableData(value, &view.data));
  return view;
}

}  // namespace

Graph::Graph(const std::string& file, int intra_op_threads, int inter_op_threads)
    : environment_(Environment()) {
  const auto options = Own<OrtSessionOptions>(Ort().ReleaseSessionOptions, Ort().CreateSessionOptions);
  Check(Ort().SetIntraOpNumThreads(options.get(), intra_op_threads));
  Check(Ort().SetInterOpNumThreads(options.get(), inter_op_threads));
  // Threads that spin between two requests would take the cores from Triton itself.
  Check(Ort().AddSessionConfigEntry(options.get(), "session.intra_op.allow_spinning", "0"));
  memory_ = Own<OrtMemoryInfo>(Ort().ReleaseMemoryInfo, [](OrtMemoryInfo** made) {
    return Ort().CreateCpuMemoryInfo(kOrtArenaAllocator, kOrtMemTypeDefault, made);
  });
  session_ = Own<OrtSession>(Ort().ReleaseSession, [&](OrtSession** made) {
    return Ort().CreateSession(environment_.get(), file.c_str(), options.get(), made);
  });
  GiveBackFreeMemory();
  inputs_ = Ports(session_.get(), Ort().SessionGetInputCount, Ort().SessionGetInputName,
                  Ort().SessionGetInputTypeInfo);
  outputs_ = Ports(session_.get(), Ort().SessionGetOutputCount, Ort().SessionGetOutputName,
                   Ort().SessionGetOutputTypeInfo);
  input_names_ = Names(inputs_);
  output_names_ = Names(outputs_);
}

void Graph::KeepOutputs(const std::set<std::string>& names) {
  const auto others = [&](const Port& port) { return names.count(port.name) == 0; };
  outputs_.erase(std::remove_if(outputs_.begin(), outputs_.end(), others), outputs_.end());
  output_names_ = Names(outputs_);
}

std::vector<Result> Graph::Run(const std::vector<TensorView>& inputs) const {
  std::vector<std::shared_ptr<OrtValue>> held;
  std::vector<const OrtValue*> values;
  for (const TensorView& view : inputs) {
    held.push_back(Own<OrtValue>(Ort().ReleaseValue, [&](OrtValue** made) {
      return Ort().CreateTensorWithDataAsOrtValue(memory_.get(), view.data, view.bytes, view.shape.data(),
                                                  view.shape.size(), view.type, made);
    }));
    values.push_back(held.back().get());
  }
  std::vector<OrtValue*> made(outputs_.size(), nullptr);
  Check(Ort().Run(session_.get(), nullptr, input_names_.data(), values.data(), values.size(),
                  output_names_.data(), made.size(), made.data()));
  std::vector<Result> results;
  for (OrtValue* value : made) results.push_back({std::shared_ptr<OrtValue>(value, Ort().ReleaseValue), {}});
  for (Result& result : results) result.view = ViewOf(result.value.get());
  return results;
}

}  // namespace leanrec
