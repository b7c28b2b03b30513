// A queue of completions for each neighbourhood of ranks, and which of them goes on.
//
// Ranks of different neighbourhoods meet only in communications, each of which takes some time from
// the last arrival to the end. So one whose ranks have arrived nowhere depends on nobody, and one
// of whose ranks has arrived is not reached before as long after as that communication takes: until
// then it goes on alone, with all that it touches in the cache. It stops there unless the
// communication has got its end by then. Who is first of all in time can go on in any case: whoever
// is missing arrives later. This is conservative parallel simulation with lookahead (Chandy and
// Misra, "Distributed simulation", IEEE TSE 5(5), 1979), done by one process for the sake of its
// cache, and without messages of nulls, as that process knows what is first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/simgrid/engine.hpp"
#include "sim/simgrid/event_queue.hpp"

namespace orrery::sim {

class LocalQueues {
 public:
  LocalQueues(EngineClient& client, std::vector<std::uint16_t> neighbourhood_of);

  void push(const QueueEntry& entry);
  // Nothing reaches `rank` from what `payload` stands for before `when`, and then not unless
  // EngineClient::awaited says so.
  void await(std::uint32_t rank, std::uint64_t when, std::uint64_t payload);
  // Moves on to an instant of some neighbourhood at which an entry is due, and says when it is; or
  // that none is left, whatever is awaited; then `now` is the last there was.
  bool advance(std::uint64_t& now);
  // Takes an entry of that instant, if one is left.
  bool take(QueueEntry& entry);
  void clear();

 private:
  struct Local {
    std::vector<QueueEntry> heap;
    std::uint64_t reached = 0;
    std::uint64_t listed = never;  // when it goes on at the earliest, as `order_` has it
  };
  struct Next {
    std::uint64_t time;
    std::uint32_t number;
  };
  static constexpr std::uint64_t never = ~std::uint64_t{0};
  static constexpr std::uint32_t nobody = ~std::uint32_t{0};
  static constexpr std::uint64_t awaits = 0;  // the key of what is awaited: before all others

  Local& current() { return locals_[current_]; }
  void list(std::uint32_t number, std::uint64_t time);
  void choose();
  bool passes_awaited();

  EngineClient& client_;
  std::vector<std::uint16_t> neighbourhood_of_;  // by rank
  std::vector<Local> locals_;
  std::size_t entries_ = 0;  // in all of them, but for what is awaited
  std::vector<Next> order_;  // a heap; those that are not as listed are out of date
  std::uint32_t current_ = nobody;
  std::uint64_t first_ = 0;  // when the current one was chosen: nobody is before that
  std::uint64_t now_ = never;
};

}  // namespace orrery::sim
