// Recommendations from Triton over plain gRPC, with stubs made of Triton's own description of its service:
//
//   node recommend.mjs HOST:PORT triton.pb [ITEM_INDEX ...]
//
// triton.pb: python -m serving.examples.triton_descriptors triton.pb
// ITEM_INDEX: what the user liked, oldest first. Prints one line of JSON.

import { readFileSync } from "node:fs";
import { credentials, loadPackageDefinition } from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer } from "@grpc/proto-loader";

const LIKED = 5;
const DEADLINE_MS = 5000;

const [address, descriptors, ...items] = process.argv.slice(2);
const definition = loadFileDescriptorSetFromBuffer(readFileSync(descriptors), { longs: Number });
const { GRPCInferenceService } = loadPackageDefinition(definition).inference;
const triton = new GRPCInferenceService(address, credentials.createInsecure());

const call = (method, request) =>
  new Promise((resolve, reject) => {
    const done = (error, answer) => (error ? reject(error) : resolve(answer));
    triton[method](request, { deadline: Date.now() + DEADLINE_MS }, done);
  });

// A user of whom nothing is stored but the items given: zeros everywhere else.
function valuesOf({ name, shape }, liked) {
  const width = Number(shape[1]);
  const filled = (value) => Array.from({ length: width }, (_, n) => (n < liked.length ? value(n) : 0));
  switch (name) {
    case "user_statistics":
      return [liked.length, liked.length, liked.length ? LIKED : 0];
    case "history":
      return filled((n) => liked[n]);
    case "history_ratings":
      return filled(() => LIKED);
    case "seen":
      return liked.length ? liked : [0];
    default:
      return Array(width).fill(0);
  }
}

// Numbers as Triton reads them: little-endian, one after another.
function bytesOf(datatype, values) {
  const array = datatype === "INT64" ? BigInt64Array.from(values, BigInt) : Float32Array.from(values);
  return Buffer.from(array.buffer);
}

function tensor({ name, datatype, shape }, liked) {
  const values = valuesOf({ name, shape }, liked);
  return { input: { name, datatype, shape: [1, values.length] }, bytes: bytesOf(datatype, values) };
}

try {
  const { inputs } = await call("ModelMetadata", { name: "recommender" });
  const history = Number(inputs.find(({ name }) => name === "history").shape[1]);
  const liked = items.map(Number).slice(-history);
  const tensors = inputs.map((input) => tensor(input, liked));
  const answer = await call("ModelInfer", {
    model_name: "recommender",
    inputs: tensors.map(({ input }) => input),
    raw_input_contents: tensors.map(({ bytes }) => bytes),
  });
  const output = (name) => {
    const position = answer.outputs.findIndex((one) => one.name === name);
    const bytes = Uint8Array.from(answer.raw_output_contents[position]).buffer;
    return Array.from(name === "score" ? new Float32Array(bytes) : new BigInt64Array(bytes), Number);
  };
  const scores = output("score");
  const best = output("item_index").map((item, n) => ({ item_index: item, score: scores[n] }));
  console.log(JSON.stringify({ release: Number(answer.model_version), items: best }));
} catch (error) {
  console.error(`error: ${address}: ${error.details ?? error.message}`);
  process.exitCode = 2;
} finally {
  triton.close();
}
