// The trace of a run in Chrome's trace event format, for Perfetto (https://ui.perfetto.dev) and
// chrome://tracing.
//
// pid = rank, tid = stream. A sequence is a slice that holds its kernels; a communication is a
// slice from the moment its stream comes to it, holding a "transfer" slice from when all members
// have come; arrows lead from a transfer's sender to its receiver, or from the member that came
// last to the others. An exchange tells its `peer`, and as `staleness` and `peer_staleness` how
// many steps either has ended since it last exchanged on that channel. Where flows are simulated,
// the process behind the ranks' is "links", with a counter for each link that is used: its bytes
// per second. Times are microseconds with six decimals, so that no picosecond is lost.
//
// Events are written as operations end: equal runs give equal bytes.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "backend/core/units.hpp"

namespace orrery {

// Takes the bytes of a trace, in order. `finish` is called once, when the run has succeeded.
class TraceSink {
 public:
  virtual ~TraceSink() = default;
  virtual void write(std::string_view bytes) = 0;
  virtual void finish() = 0;
};

// Writes a file under a temporary name beside `path` and renames it when finished; without that,
// nothing stays. Error{config} when the file cannot be written.
class FileTraceSink : public TraceSink {
 public:
  explicit FileTraceSink(std::string path);
  ~FileTraceSink() override;
  FileTraceSink(const FileTraceSink&) = delete;
  FileTraceSink& operator=(const FileTraceSink&) = delete;
  void write(std::string_view bytes) override;
  void finish() override;

 private:
  std::string path_, temporary_;
  std::FILE* file_ = nullptr;
};

class StringTraceSink : public TraceSink {
 public:
  void write(std::string_view bytes) override { text_ += bytes; }
  void finish() override { finished_ = true; }
  const std::string& text() const { return text_; }
  bool finished() const { return finished_; }

 private:
  std::string text_;
  bool finished_ = false;
};

namespace sim {

// Where a slice is drawn.
struct Track {
  std::uint32_t rank = 0;
  std::uint32_t stream = 0;
};

// Formats events into a sink.
class TraceWriter {
 public:
  explicit TraceWriter(TraceSink& sink);

  void name_rank(std::uint32_t rank);
  void name_process(std::uint32_t number, std::string_view name);
  void name_stream(Track track, std::string_view name);
  // `arguments`: the members of a JSON object, without braces; empty for none.
  void slice(Track track, std::string_view category, std::string_view name, Time begin, Time end,
             std::string_view arguments = {});
  // An arrow between two slices that are open at these times.
  void arrow(std::string_view name, Track from, Time left, Track to, Time arrived);
  // What a quantity is from `at` on.
  void counter(std::uint32_t process, std::string_view name, Time at, double value);
  void finish();

 private:
  void begin_event();
  void flush_when_large();
  TraceSink& sink_;
  std::string buffer_;
  std::uint64_t arrows_ = 0;
  bool first_ = true;
};

// `text` as the inside of a JSON string.
std::string escape_json(std::string_view text);

}  // namespace sim
}  // namespace orrery
