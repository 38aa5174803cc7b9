#include "configuration.h"

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "element_types.h"
#include "triton_calls.h"

namespace leanrec {
namespace {

using Json = nlohmann::json;

Json Read(TRITONBACKEND_Model* model) {
  TRITONSERVER_Message* message = nullptr;
  Check(TRITONBACKEND_ModelConfig(model, 1, &message));
  const std::unique_ptr<TRITONSERVER_Message, void (*)(TRITONSERVER_Message*)> owned(
      message, [](TRITONSERVER_Message* held) { Ignore(TRITONSERVER_MessageDelete(held)); });
  const char* text = nullptr;
  size_t length = 0;
  Check(TRITONSERVER_MessageSerializeToJson(message, &text, &length));
  return Json::parse(text, text + length);
}

std::string FileOf(TRITONBACKEND_Model* model) {
  int kind = 0;
  const char* folder = nullptr;
  uint64_t version = 0;
  Check(TRITONBACKEND_ModelRepository(model, &kind, &folder));
  Check(TRITONBACKEND_ModelVersion(model, &version));
  const std::filesystem::path file = std::filesystem::path(folder) / std::to_string(version) / kModelFile;
  if (!std::filesystem::is_regular_file(file)) {
    throw std::runtime_error(file.string() + ": no such file; a version directory holds " + kModelFile);
  }
  return file.string();
}

int Instances(const Json& configuration) {
  int instances = 0;
  for (const Json& group : configuration.value("instance_group", Json::array())) {
    instances += group.value("count", 1);
  }
  return std::max(1, instances);
}

int Cores() {
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

int Threads(const Json& configuration, const char* parameter, int otherwise) {
  const Json parameters = configuration.value("parameters", Json::object());
  if (!parameters.contains(parameter)) return otherwise;
  const std::string text = parameters.at(parameter).value("string_value", "");
  const bool whole = !text.empty() && text.size() < 5 && std::all_of(text.begin(), text.end(), ::isdigit);
  if (!whole) {
    throw std::runtime_error("parameter " + std::string(parameter) + " is '" + text +
                             "'; give a whole number, 0 for the default");
  }
  return std::stoi(text) == 0 ? otherwise : std::stoi(text);
}

std::string Listed(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return "[" + text + "]";
}

// An instance computes on its own thread and on its share of the session's: for n threads to each of them the
// session has n - 1 more for each, and ONNX Runtime counts the caller's as one.
int SharedThreads(int instances, int of_each) { return instances * (of_each - 1) + 1; }

Tensors Named(const Json& entries) {
  Tensors types;
  for (const Json& entry : entries) types[entry.at("name")] = entry.at("data_type");
  return types;
}

}  // namespace

Configuration ReadConfiguration(TRITONBACKEND_Model* model) {
  const Json json = Read(model);
  const int instances = Instances(json);
  const int intra = Threads(json, "intra_op_thread_count", std::max(1, Cores() / instances));
  const int inter = Threads(json, "inter_op_thread_count", 1);
  return {FileOf(model),
          json.value("max_batch_size", 0) > 0,
          SharedThreads(instances, intra),
          SharedThreads(instances, inter),
          Named(json.at("input")),
          Named(json.at("output"))};
}

void CheckPorts(const Configuration& configuration, const std::string& kind, const Tensors& configured,
                const std::vector<Port>& ports) {
  std::set<std::string> wanted, present;
  for (const auto& [name, type] : configured) wanted.insert(name);
  for (const Port& port : ports) present.insert(port.name);
  const bool known = std::includes(present.begin(), present.end(), wanted.begin(), wanted.end());
  if (!known || (kind == "input" && wanted != present)) {
    throw std::runtime_error(configuration.file + ": the graph has the " + kind + "s " + Listed(present) +
                             ", config.pbtxt names " + Listed(wanted));
  }
  for (const Port& port : ports) {
    const auto said = configured.find(port.name);
    if (said == configured.end()) continue;
    const ElementType* type = FindOnnxType(port.type);
    const std::string name = type == nullptr ? "a type that is not served" : type->configured;
    if (said->second != name) {
      throw std::runtime_error(configuration.file + ": the graph's " + kind + " " + port.name + " is of " +
                               name + ", config.pbtxt says " + said->second);
    }
  }
}

}  // namespace leanrec
