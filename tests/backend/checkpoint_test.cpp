#include "backend/checkpoint.hpp"

#include <doctest/doctest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "backend/core/text.hpp"
#include "tests/backend/fake_device.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

// State as an algorithm has it: tensors, counters, and a part with a scope of its own.
struct State {
  Tensor weights, flag;
  std::int64_t step = 0;
  double scale = 0;

  explicit State(Rank& rank, std::int64_t elements = 3) {
    Stream& s = rank.stream("s");
    weights = tensor(rank, s, elements, "weights", Label::parameters);
    TensorOptions always;
    always.values = Values::always;
    flag = rank.allocate(s, Label::activations, 1, Dtype::fp32, always);
  }
  void visit(Archive& archive) {
    archive.field("step", step);
    const Archive::Scope scope(archive, "model");
    archive.field("weights", weights);
    archive.field("scale", scale);
    archive.field("flag", flag);
  }
};

Checkpoint save(Rank& rank, State& state) {
  Checkpoint checkpoint;
  Saver saver(rank, checkpoint);
  state.visit(saver);
  return checkpoint;
}

Checkpoint sample() {
  Checkpoint checkpoint;
  checkpoint.fields["empty"] = {};
  checkpoint.fields["model.weights"] = {std::byte{1}, std::byte{0}, std::byte{255}};
  return checkpoint;
}

struct File {
  std::string path = (std::filesystem::temp_directory_path() /
                      ("orrery_checkpoint_test_" + std::to_string(static_cast<long>(::getpid()))))
                         .string();
  ~File() { std::filesystem::remove(path); }
};

}  // namespace

TEST_CASE("state saved from one run and loaded into another is the same, scopes in the names") {
  FakeWorld first(replicas(1, true)), second(replicas(1, true));
  State a(first.rank()), b(second.rank());
  const float values[3] = {1.5F, -2.0F, 3.25F};
  first.rank().write_bytes(a.weights, std::as_bytes(std::span(values)));
  first.rank().stream("s").upload(a.flag, {7.0});
  a.step = -12;
  a.scale = 0.1;
  const Checkpoint checkpoint = save(first.rank(), a);
  CHECK(checkpoint.fields.contains("step"));
  CHECK(checkpoint.fields.contains("model.weights"));
  Loader loader(second.rank(), checkpoint);
  b.visit(loader);
  loader.finish();
  CHECK(second.rank().read(b.weights) == std::vector{1.5, -2.0, 3.25});
  CHECK(second.rank().read(b.flag) == std::vector{7.0});
  CHECK(b.step == -12);
  CHECK(b.scale == 0.1);
  CHECK(save(second.rank(), b) == checkpoint);
}

TEST_CASE("without values a tensor is kept as no bytes, and loads into a run without values") {
  FakeWorld world(replicas(1, false));
  State state(world.rank());
  world.rank().stream("s").upload(state.flag, {7.0});
  const Checkpoint checkpoint = save(world.rank(), state);
  CHECK(checkpoint.fields.at("model.weights").empty());
  CHECK(checkpoint.fields.at("model.flag").size() == 4);
  Loader loader(world.rank(), checkpoint);
  CHECK_NOTHROW(state.visit(loader));
  CHECK_NOTHROW(loader.finish());
}

TEST_CASE("saving waits for the operations that write the state") {
  FakeWorld world(replicas(1, true));
  world.hold = true;
  State state(world.rank());
  world.rank().stream("s").upload(state.flag, {7.0});
  const Checkpoint checkpoint = save(world.rank(), state);
  CHECK(world.device().waits.size() == 1);
  float flag = 0;
  std::memcpy(&flag, checkpoint.fields.at("model.flag").data(), sizeof flag);
  CHECK(flag == 7.0F);
}

TEST_CASE("a name visited twice is the program's error") {
  FakeWorld world;
  Checkpoint checkpoint;
  Saver saver(world.rank(), checkpoint);
  std::int64_t value = 1;
  saver.field("x", value);
  const Error error = error_of([&] { saver.field("x", value); });
  CHECK(error.category() == Category::invalid_program);
  CHECK(mentions(error, "'x'"));
}

TEST_CASE("a missing field, a field of another size and one that nobody asks for are named") {
  FakeWorld world(replicas(1, true));
  State state(world.rank()), larger(world.rank(), 4);
  const Checkpoint good = save(world.rank(), state);
  Checkpoint lacking = good;
  lacking.fields.erase("model.scale");
  Loader without(world.rank(), lacking);
  const Error missing = error_of([&] { state.visit(without); });
  CHECK(missing.category() == Category::config);
  CHECK(mentions(missing, "'model.scale'"));
  Loader resized(world.rank(), good);
  const Error size = error_of([&] { larger.visit(resized); });
  CHECK(size.category() == Category::config);
  CHECK(mentions(size, "12 bytes in the checkpoint and 16 here"));
  Checkpoint short_number = good;
  short_number.fields["step"].clear();
  Loader shorter(world.rank(), short_number);
  CHECK(error_of([&] { state.visit(shorter); }).category() == Category::config);
  Checkpoint more = good;
  more.fields["left.over"] = {};
  Loader extra(world.rank(), more);
  state.visit(extra);
  const Error stranger = error_of([&] { extra.finish(); });
  CHECK(stranger.category() == Category::config);
  CHECK(mentions(stranger, "left.over"));
}

TEST_CASE("a file of checkpoints reads back, for no rank, one and several") {
  for (const std::size_t ranks : {0, 1, 3}) {
    const File file;
    std::vector<Checkpoint> all(ranks, sample());
    if (ranks > 1) all[1].fields.clear();
    write_checkpoints(file.path, all);
    CHECK(read_checkpoints(file.path) == all);
  }
}

TEST_CASE("a file cut short anywhere is refused") {
  const File file;
  write_checkpoints(file.path, {sample(), sample()});
  const std::string whole = read_file(file.path);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    std::ofstream(file.path, std::ios::binary) << whole.substr(0, size);
    REQUIRE(error_of([&] { read_checkpoints(file.path); }).category() == Category::config);
  }
}

TEST_CASE("a file with any one bit flipped is refused") {
  const File file;
  write_checkpoints(file.path, {sample()});
  const std::string whole = read_file(file.path);
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    std::ofstream(file.path, std::ios::binary) << damaged;
    const Error error = error_of([&] { read_checkpoints(file.path); });
    REQUIRE(error.category() == Category::config);
    REQUIRE(error.context("file") == file.path);
  }
}

TEST_CASE("a file with bytes appended, and none at all, are refused") {
  const File file;
  CHECK(error_of([&] { read_checkpoints(file.path); }).category() == Category::config);
  write_checkpoints(file.path, {sample()});
  std::ofstream(file.path, std::ios::binary | std::ios::app) << "x";
  CHECK(error_of([&] { read_checkpoints(file.path); }).category() == Category::config);
}

TEST_CASE("a failed write leaves the old checkpoint, and nothing else, behind") {
  const File folder;
  std::filesystem::create_directory(folder.path);
  const std::string path = folder.path + "/checkpoint";
  write_checkpoints(path, {sample()});
  std::filesystem::create_directory(folder.path + "/blocked");
  CHECK_THROWS_AS(write_checkpoints(folder.path + "/blocked", {sample()}), Error);
  CHECK_THROWS_AS(write_checkpoints(folder.path + "/no/such", {sample()}), Error);
  CHECK(read_checkpoints(path) == std::vector{sample()});
  std::size_t entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path)) {
    entries += entry.path().empty() ? 0 : 1;
  }
  CHECK(entries == 2);
  std::filesystem::remove_all(folder.path);
}
