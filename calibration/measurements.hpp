// What was measured, before anything is made of it: the repetitions of every point.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/channel.hpp"
#include "backend/core/units.hpp"

namespace orrery {

// One kernel, repeated. Seconds are those of the work at `at` (work_at, platforms/measured.hpp).
struct KernelSamples {
  std::string kernels;    // class
  std::int64_t busy = 1;  // threads that ran it at once
  std::vector<std::string> axes;
  std::vector<double> at;
  bool held_back = false;  // kept out of the table, to check it
  std::vector<double> seconds;
  double bytes = 0, flops = 0;  // of the work at `at`: what it moves and its multiply-adds, times 2
};

struct CollectiveSamples {
  Collective operation = Collective::all_reduce;
  int members = 2;
  Bytes size;  // of the whole buffer
  bool held_back = false;
  std::vector<double> seconds;
};

// Seconds of the host: issuing a kernel, issuing a communication, returning from a wait for an
// operation that takes no time, a control message one way; and of a stream, from one short
// operation to the next.
struct HostSamples {
  std::vector<double> launch, communicate, wait, control, operation;
};

// Seconds of kernels of one element on a device: many in one operation, each an operation, and many
// in a graph. And of the host, to issue 16 of them in one operation, without and with a graph.
struct LeastSamples {
  std::vector<double> kernel, operation, graph;
  std::vector<double> issued, issued_graph;
};

// One way between a device and its host's pinned memory.
struct CopySamples {
  bool to_device = false;
  Bytes size;
  std::vector<double> seconds;
};

// Kernels while another stream copies or adds up device memory, as communication does, or copies
// from or to the host, as offloading does.
struct InterferenceSamples {
  std::string kernels;                   // class and sizes
  const char* beside = "";               // "copy", "reduction", "copy from the host", …
  std::vector<double> alone, beside_it;  // seconds
};

struct Measurements {
  std::vector<KernelSamples> kernels;
  std::vector<CollectiveSamples> collectives;
  HostSamples host;
  LeastSamples least;  // of devices, as what follows
  std::vector<CopySamples> copies;
  std::vector<InterferenceSamples> interference;
};

}  // namespace orrery
