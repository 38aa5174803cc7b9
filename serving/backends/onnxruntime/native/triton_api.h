// The part of Triton's backend interface that the backend calls; tritonserver itself exports the functions.
//
// The wheel `nvidia-pytriton` carries the server and no header.
//
// Source: github.com/triton-inference-server/core, include/triton/core/tritonbackend.h and tritonserver.h,
// version 1
#pragma once

#include <cstddef>
#include <cstdint>

struct TRITONSERVER_Error;
struct TRITONSERVER_Message;
struct TRITONBACKEND_Backend;
struct TRITONBACKEND_Input;
struct TRITONBACKEND_Model;
struct TRITONBACKEND_ModelInstance;
struct TRITONBACKEND_Output;
struct TRITONBACKEND_Request;
struct TRITONBACKEND_Response;

constexpr uint32_t kTritonMajor = 1;  // a server of another major version has another interface
constexpr int kTritonInternal = 1;
constexpr int kTritonInvalidArgument = 3;
constexpr int kTritonMemoryCpu = 0;
constexpr int kTritonMemoryPinned = 1;  // of the host, too
constexpr uint32_t kTritonReleaseAll = 1;
constexpr uint32_t kTritonFinal = 1;
using TritonDataType = int;

extern "C" {
using TritonError = TRITONSERVER_Error*;

TritonError TRITONSERVER_ErrorNew(int code, const char* message);
int TRITONSERVER_ErrorCode(TritonError);
const char* TRITONSERVER_ErrorMessage(TritonError);
void TRITONSERVER_ErrorDelete(TritonError);
TritonError TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message*, const char** text, size_t* length);
TritonError TRITONSERVER_MessageDelete(TRITONSERVER_Message*);

TritonError TRITONBACKEND_ApiVersion(uint32_t* major, uint32_t* minor);

TritonError TRITONBACKEND_ModelRepository(TRITONBACKEND_Model*, int* kind, const char** folder);
TritonError TRITONBACKEND_ModelVersion(TRITONBACKEND_Model*, uint64_t* version);
TritonError TRITONBACKEND_ModelConfig(TRITONBACKEND_Model*, uint32_t version, TRITONSERVER_Message**);
TritonError TRITONBACKEND_ModelState(TRITONBACKEND_Model*, void** state);
TritonError TRITONBACKEND_ModelSetState(TRITONBACKEND_Model*, void* state);
TritonError TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance*, TRITONBACKEND_Model**);

TritonError TRITONBACKEND_RequestInput(TRITONBACKEND_Request*, const char* name, TRITONBACKEND_Input**);
TritonError TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request*, uint32_t* count);
TritonError TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request*, uint32_t index, const char** name);
TritonError TRITONBACKEND_RequestRelease(TRITONBACKEND_Request*, uint32_t flags);
TritonError TRITONBACKEND_InputProperties(TRITONBACKEND_Input*, const char** name, TritonDataType*,
                                          const int64_t** shape, uint32_t* rank, uint64_t* bytes,
                                          uint32_t* buffers);
TritonError TRITONBACKEND_InputBuffer(TRITONBACKEND_Input*, uint32_t index, const void** buffer,
                                      uint64_t* bytes, int* memory_kind, int64_t* memory_id);

TritonError TRITONBACKEND_ResponseNew(TRITONBACKEND_Response**, TRITONBACKEND_Request*);
TritonError TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response*, TRITONBACKEND_Output**, const char* name,
                                         TritonDataType, const int64_t* shape, uint32_t rank);
TritonError TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output*, void** buffer, uint64_t bytes, int* memory_kind,
                                       int64_t* memory_id);
TritonError TRITONBACKEND_ResponseSend(TRITONBACKEND_Response*, uint32_t flags, TritonError);

TritonError TRITONBACKEND_ModelInstanceReportStatistics(TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request*,
                                                        bool success, uint64_t start_ns,
                                                        uint64_t compute_start_ns, uint64_t compute_end_ns,
                                                        uint64_t end_ns);
TritonError TRITONBACKEND_ModelInstanceReportBatchStatistics(TRITONBACKEND_ModelInstance*, uint64_t batch,
                                                             uint64_t start_ns, uint64_t compute_start_ns,
                                                             uint64_t compute_end_ns, uint64_t end_ns);
}
