#include "backend/host/world.hpp"

#include "backend/rank.hpp"

namespace orrery::host {

HostWorld::HostWorld(WorldOptions options, int first, int count)
    : state_(std::move(options)),
      catalogue_([this](PreparedKernel& kernel) { prepared(kernel.kernel); }),
      ranks_(state_.options.grid.size()),
      first_(first),
      count_(count < 0 ? ranks_ : count),
      shared_{monitor_, state_,
              [this](int to, ControlMessage message) { deliver(to, std::move(message)); }} {
  state_.catalogue = [this](int) -> Catalogue& { return catalogue_; };
}

void HostWorld::add_service(const std::string& name, ServiceProgram program) {
  if (count_ != ranks_)
    throw Error(Category::unavailable,
                "service '" + name + "' needs all ranks to be in one process");
  const int address = ranks_ + static_cast<int>(services_.size());
  state_.services.push_back(name);
  services_.push_back(std::make_unique<ControlService>(shared_, address, name, std::move(program)));
}

RunReport HostWorld::run(const Program& program) {
  ORRERY_ASSERT(devices_.empty(), "a world runs once");
  report_.ranks.resize(static_cast<std::size_t>(ranks_));
  if (state_.options.decisions == DecisionMode::record)
    report_.decisions.resize(static_cast<std::size_t>(ranks_));
  monitor_.start_clock();
  ranks_left_ = count_;
  for (int rank = first_; rank < end_rank(); ++rank) devices_.push_back(make_device(shared_, rank));
  begin();
  {
    // Nobody runs before everybody is counted: a rank that blocks first is no deadlock.
    const Lock lock(monitor_.mutex());
    monitor_.add(starting_, true);
  }
  for (auto& service : services_) service->start();
  std::vector<std::thread> threads;
  for (int rank = first_; rank < end_rank(); ++rank)
    threads.emplace_back([this, rank, &program] { run_rank(rank, program); });
  {
    Lock lock(monitor_.mutex());
    all_begun_.wait(lock, [this] { return begun_ == count_; });
    monitor_.remove(starting_);
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& service : services_) service->join();
  end();
  if (monitor_.failed()) std::rethrow_exception(monitor_.failure());
  if (!report_.decisions.empty())
    for (auto& service : services_) report_.decisions.push_back(service->take_decisions());
  check_messages();
  finish_report();
  return std::move(report_);
}

void HostWorld::run_rank(int id, const Program& program) {
  HostDevice& device = this->device(id);
  std::unique_ptr<Rank> rank;
  try {
    rank = std::make_unique<Rank>(state_, device, id);
  } catch (...) {
    const Lock lock(monitor_.mutex());
    monitor_.fail(std::current_exception());
    begin_counted();
    return;
  }
  device.begin(*rank);
  {
    const Lock lock(monitor_.mutex());
    begin_counted();
  }
  bool ended_well = false;
  try {
    program(*rank);
    device.drain(*rank);
    ended_well = true;
  } catch (...) {
    const std::exception_ptr failure =
        with_context(std::current_exception(), {{"rank", std::to_string(id)}, {"flow", "main"}});
    const Lock lock(monitor_.mutex());
    monitor_.fail(failure);
  }
  program_ended(id);
  device.end_program();
  device.stop();
  if (!ended_well) return;  // its device may still be retiring what it began
  const auto place = static_cast<std::size_t>(id);
  device.report(*rank, report_.ranks[place]);
  if (!report_.decisions.empty()) report_.decisions[place] = rank->decisions();
}

void HostWorld::begin_counted() {
  if (++begun_ == count_) all_begun_.notify_all();
}

void HostWorld::program_ended(int rank) {
  const Lock lock(monitor_.mutex());
  rank_ended(rank);
  if (--ranks_left_ > 0) return;
  for (auto& service : services_) service->ranks_have_ended();
}

void HostWorld::post(int to, ControlMessage) {
  ORRERY_ASSERT(is_here(to), "a world whose ranks are all here posts nothing");
}

void HostWorld::deliver(int to, ControlMessage message) {
  if (to < ranks_ && !is_here(to)) return post(to, std::move(message));
  const Lock lock(monitor_.mutex());
  if (to < ranks_)
    device(to).receive(std::move(message));
  else
    services_[static_cast<std::size_t>(to - ranks_)]->receive(std::move(message));
}

std::string HostWorld::address(int number) const {
  if (number < ranks_) return "rank " + std::to_string(number);
  return "service " + state_.services[static_cast<std::size_t>(number - ranks_)];
}

void HostWorld::check_messages() const {
  Error error(Category::mismatch, "message never received");
  const auto look = [&](int to, const std::vector<ControlMessage>& mailbox) {
    for (const ControlMessage& message : mailbox)
      error.with("from " + address(message.from), "to " + address(to) + ", tag " +
                                                      std::to_string(message.tag) + " (" +
                                                      to_string(message.site) + ")");
  };
  for (int rank = first_; rank < end_rank(); ++rank) look(rank, device(rank).mailbox());
  for (std::size_t i = 0; i < services_.size(); ++i)
    look(ranks_ + static_cast<int>(i), services_[i]->mailbox());
  if (!error.context().empty()) throw error;
}

void HostWorld::finish_report() {
  for (const auto& device : devices_) {
    report_.end = std::max(report_.end, device->last_end());
    report_.activities += device->activities();
    report_.arena_high_water = std::max(report_.arena_high_water, device->arena_high_water());
  }
  add_to(report_);
}

}  // namespace orrery::host
