#include "backend/cuda/gather.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "backend/core/error.hpp"

namespace orrery::cuda {

namespace {

class Writer {
 public:
  template <class Value>
  void operator()(const Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void operator()(const std::string& text) {
    (*this)(text.size());
    bytes += text;
  }

  std::string bytes;
};

class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}
  template <class Value>
  void operator()(Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    std::memcpy(&value, take(sizeof value), sizeof value);
  }
  void operator()(std::string& text) {
    std::size_t size = 0;
    (*this)(size);
    const char* from = take(size);
    text.assign(from, size);
  }
  bool at_end() const { return at_ == bytes_.size(); }

 private:
  const char* take(std::size_t size) {
    if (size > bytes_.size() - at_)
      throw Error(Category::mismatch, "the report of another process is cut off");
    return bytes_.data() + std::exchange(at_, at_ + size);
  }

  const std::string& bytes_;
  std::size_t at_ = 0;
};

// How many there are, then each: of a writer, those of `all`; of a reader, into it.
template <class Visit, class Item, class Each>
void visit_all(Visit& visit, std::vector<Item>& all, const Each& each) {
  std::size_t count = all.size();
  visit(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (i == all.size()) all.emplace_back();  // one by one: the count may be wrong
    each(all[i]);
  }
}

template <class Visit>
void visit_work(Visit& visit, WorkRow& row) {
  visit(row.operation);
  visit(row.kernel);
  visit(row.kind);
  visit(row.calls);
  visit(row.time);
}

// Every field of a report, in one order for both ways.
template <class Visit>
void visit_report(Visit& visit, RankReport& report) {
  std::vector<StepMark> steps(report.steps.begin(), report.steps.end());
  visit_all(visit, steps, [&](StepMark& step) { visit(step); });
  report.steps = {steps.begin(), steps.end()};
  visit_all(visit, report.channels, [&](ChannelReport& channel) {
    visit(channel.group);
    visit(channel.lane);
    visit(channel.edge);
    visit(channel.use);
  });
  visit(report.peak);
  visit(report.host_peak);
  visit(report.peak_by_label);
  visit(report.matrix_flops);
  std::vector<std::pair<std::int64_t, double>> losses(report.losses.begin(), report.losses.end());
  visit_all(visit, losses, [&](auto& loss) {
    visit(loss.first);
    visit(loss.second);
  });
  report.losses = {losses.begin(), losses.end()};
  visit(report.operations);
  visit_all(visit, report.work, [&](WorkRow& row) { visit_work(visit, row); });
  visit_all(visit, report.native, [&](NativeRow& row) {
    visit_work(visit, row.of);
    visit(row.function);
  });
}

// What a process tells, after the report of its rank.
template <class Visit>
void visit_whole(Visit& visit, RunReport& report, std::string& more) {
  visit(report.end);
  visit(report.activities);
  visit(report.arena_high_water);
  bool has_pool = report.pool.has_value();
  visit(has_pool);
  if (has_pool && !report.pool) report.pool.emplace();
  if (has_pool) visit(*report.pool);
  visit(more);
}

// Of another process, to what is known of the whole run.
void add(RunReport& to, const RunReport& part) {
  to.end = std::max(to.end, part.end);
  to.activities += part.activities;
  to.arena_high_water = std::max(to.arena_high_water, part.arena_high_water);
  if (!part.pool) return;
  if (!to.pool) to.pool.emplace();
  to.pool->used += part.pool->used;
  to.pool->reserved += part.pool->reserved;
}

void check_end(const Reader& reader) {
  if (!reader.at_end()) throw Error(Category::mismatch, "the report of another process goes on");
}

}  // namespace

std::vector<std::string> gather(Processes& processes, RunReport& report, const std::string& mine) {
  Writer writer;
  std::string more = mine;
  visit_report(writer, report.ranks[static_cast<std::size_t>(processes.rank())]);
  visit_whole(writer, report, more);
  const std::vector<std::string> parts = processes.gather(std::move(writer.bytes));
  std::vector<std::string> told;
  for (std::size_t rank = 0; rank < parts.size(); ++rank) {
    Reader reader(parts[rank]);
    RunReport part;
    report.ranks[rank] = {};
    visit_report(reader, report.ranks[rank]);
    visit_whole(reader, part, told.emplace_back());
    check_end(reader);
    if (rank > 0) add(report, part);
  }
  return told;
}

std::string to_bytes(const RankReport& report) {
  Writer writer;
  RankReport copy = report;  // a visitor may change what it visits
  visit_report(writer, copy);
  return std::move(writer.bytes);
}

RankReport report_from_bytes(const std::string& bytes) {
  Reader reader(bytes);
  RankReport report;
  visit_report(reader, report);
  check_end(reader);
  return report;
}

}  // namespace orrery::cuda
