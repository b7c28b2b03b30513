#include "sim/trace.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <iterator>
#include <utility>

#include "backend/core/error.hpp"

namespace orrery {

FileTraceSink::FileTraceSink(std::string path)
    : path_(std::move(path)), temporary_(path_ + ".part" + std::to_string(::getpid())) {
  file_ = std::fopen(temporary_.c_str(), "wb");
  if (file_ == nullptr) throw Error(Category::config, "the trace cannot be written to " + path_);
}

FileTraceSink::~FileTraceSink() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  std::remove(temporary_.c_str());
}

void FileTraceSink::write(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size())
    throw Error(Category::config, "the trace cannot be written to " + path_);
}

void FileTraceSink::finish() {
  const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
  if (!closed || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    std::remove(temporary_.c_str());
    throw Error(Category::config, "the trace cannot be written to " + path_);
  }
}

namespace sim {

namespace {

constexpr std::size_t flush_at = 1 << 16;

// Microseconds with all picoseconds.
void append_time(std::string& to, Time time) {
  fmt::format_to(std::back_inserter(to), "{}.{:06}", time.picoseconds / 1'000'000,
                 time.picoseconds % 1'000'000);
}

}  // namespace

std::string escape_json(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '"' || c == '\\')
      escaped += {'\\', c};
    else if (static_cast<unsigned char>(c) < 0x20)
      escaped += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      escaped += c;
  }
  return escaped;
}

TraceWriter::TraceWriter(TraceSink& sink) : sink_(sink) {
  buffer_ = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";
}

void TraceWriter::begin_event() {
  if (!std::exchange(first_, false)) buffer_ += ",\n";
}

void TraceWriter::flush_when_large() {
  if (buffer_.size() < flush_at) return;
  sink_.write(buffer_);
  buffer_.clear();
}

void TraceWriter::name_rank(std::uint32_t rank) {
  name_process(rank, fmt::format("rank {}", rank));
}

void TraceWriter::name_process(std::uint32_t number, std::string_view name) {
  begin_event();
  fmt::format_to(std::back_inserter(buffer_),
                 R"({{"ph":"M","name":"process_name","pid":{},"args":{{"name":"{}"}}}})", number,
                 escape_json(name));
  flush_when_large();
}

void TraceWriter::name_stream(Track track, std::string_view name) {
  begin_event();
  fmt::format_to(std::back_inserter(buffer_),
                 R"({{"ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":"{}"}}}})",
                 track.rank, track.stream, escape_json(name));
  flush_when_large();
}

void TraceWriter::slice(Track track, std::string_view category, std::string_view name, Time begin,
                        Time end, std::string_view arguments) {
  begin_event();
  fmt::format_to(std::back_inserter(buffer_),
                 R"({{"ph":"X","pid":{},"tid":{},"cat":"{}","name":"{}","ts":)", track.rank,
                 track.stream, category, escape_json(name));
  append_time(buffer_, begin);
  buffer_ += ",\"dur\":";
  append_time(buffer_, end - begin);
  if (!arguments.empty()) {
    buffer_ += ",\"args\":{";
    buffer_ += arguments;
    buffer_ += '}';
  }
  buffer_ += '}';
  flush_when_large();
}

void TraceWriter::arrow(std::string_view name, Track from, Time left, Track to, Time arrived) {
  const std::uint64_t id = ++arrows_;
  const auto end = [&](const char* phase, Track track, Time at) {
    begin_event();
    fmt::format_to(
        std::back_inserter(buffer_),
        R"({{"ph":"{}","pid":{},"tid":{},"cat":"communication","name":"{}","id":{},"ts":)", phase,
        track.rank, track.stream, escape_json(name), id);
    append_time(buffer_, at);
    if (phase[0] == 'f') buffer_ += R"(,"bp":"e")";
    buffer_ += '}';
  };
  end("s", from, left);
  end("f", to, arrived);
  flush_when_large();
}

void TraceWriter::counter(std::uint32_t process, std::string_view name, Time at, double value) {
  begin_event();
  fmt::format_to(std::back_inserter(buffer_), R"({{"ph":"C","pid":{},"name":"{}","ts":)", process,
                 escape_json(name));
  append_time(buffer_, at);
  fmt::format_to(std::back_inserter(buffer_), R"(,"args":{{"value":{}}}}})", value);
  flush_when_large();
}

void TraceWriter::finish() {
  buffer_ += "\n]}\n";
  sink_.write(buffer_);
  buffer_.clear();
  sink_.finish();
}

}  // namespace sim
}  // namespace orrery
