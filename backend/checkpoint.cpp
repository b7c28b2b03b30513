#include "backend/checkpoint.hpp"

#include <cstring>

#include "backend/core/sha256.hpp"
#include "backend/core/text.hpp"

namespace orrery {

namespace {
constexpr std::string_view magic = "orrery.checkpoint/1\n";

template <class T>
std::vector<std::byte> as_bytes(const T& value) {
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}
}  // namespace

Archive::Scope::Scope(Archive& archive, std::string_view name)
    : archive_(archive), length_(archive.prefix_.size()) {
  archive_.prefix_ += std::string(name) + ".";
}

Archive::Scope::~Scope() { archive_.prefix_.resize(length_); }

void Saver::put(std::string name, std::vector<std::byte> bytes) {
  if (!to_.fields.emplace(name, std::move(bytes)).second)
    throw Error(Category::invalid_program, "two pieces of state are called '" + name + "'");
}

void Saver::field(std::string_view name, Tensor& tensor) {
  put(full(name), rank_.read_bytes(tensor));
}
void Saver::field(std::string_view name, std::int64_t& value) { put(full(name), as_bytes(value)); }
void Saver::field(std::string_view name, double& value) { put(full(name), as_bytes(value)); }

const std::vector<std::byte>& Loader::get(const std::string& name, std::size_t size,
                                          bool may_be_empty) {
  const auto found = from_.fields.find(name);
  if (found == from_.fields.end())
    throw Error(Category::config, "the checkpoint has no '" + name + "'");
  if (found->second.size() != size && !(may_be_empty && found->second.empty()))
    throw Error(Category::config, "'" + name + "' has " + std::to_string(found->second.size()) +
                                      " bytes in the checkpoint and " + std::to_string(size) +
                                      " here");
  seen_[name] = true;
  return found->second;
}

void Loader::field(std::string_view name, Tensor& tensor) {
  const auto& bytes = get(full(name), static_cast<std::size_t>(tensor.bytes().value), true);
  if (!bytes.empty()) rank_.write_bytes(tensor, bytes);
}

void Loader::field(std::string_view name, std::int64_t& value) {
  std::memcpy(&value, get(full(name), sizeof value, false).data(), sizeof value);
}
void Loader::field(std::string_view name, double& value) {
  std::memcpy(&value, get(full(name), sizeof value, false).data(), sizeof value);
}

void Loader::finish() const {
  for (const auto& [name, bytes] : from_.fields)
    if (!seen_.contains(name))
      throw Error(Category::config, "the checkpoint's '" + name + "' has no place in this program");
}

// Layout: magic; number of ranks; per rank the number of fields; per field the sizes of name and
// bytes, then both; SHA-256 (hex) of everything before it. Integers are 64-bit, little endian.
void write_checkpoints(const std::string& path, const std::vector<Checkpoint>& ranks) {
  std::string out(magic);
  const auto number = [&out](std::uint64_t v) {
    for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>((v >> (8 * i)) & 0xffU));
  };
  number(ranks.size());
  for (const Checkpoint& rank : ranks) {
    number(rank.fields.size());
    for (const auto& [name, bytes] : rank.fields) {
      number(name.size());
      number(bytes.size());
      out += name;
      out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
  }
  out += sha256_hex(out);
  write_file_atomically(path, out);
}

std::vector<Checkpoint> read_checkpoints(const std::string& path) {
  const std::string in = read_file(path, std::size_t{1} << 36);
  const auto bad = [&](const std::string& why) {
    return Error(Category::config, "not a usable checkpoint: " + why).with("file", path);
  };
  if (in.size() < magic.size() + 64 || !in.starts_with(magic))
    throw bad("it does not start as one, or is cut short");
  const std::string_view body(in.data(), in.size() - 64);
  if (sha256_hex(body) != in.substr(body.size()))
    throw bad("its checksum does not fit: it was damaged or cut short");
  std::size_t at = magic.size();
  const auto number = [&]() {
    if (body.size() - at < 8) throw bad("it ends inside a number");
    std::uint64_t v = 0;
    for (int i = 0; i < 8; ++i)
      v |= static_cast<std::uint64_t>(
               static_cast<unsigned char>(body[at + static_cast<std::size_t>(i)]))
           << (8 * i);
    at += 8;
    return v;
  };
  const auto piece = [&](std::uint64_t size) {
    if (body.size() - at < size) throw bad("it ends inside a field");
    const std::string_view view = body.substr(at, size);
    at += size;
    return view;
  };
  std::vector<Checkpoint> ranks;
  for (std::uint64_t left = number(); left > 0; --left) {
    Checkpoint& rank = ranks.emplace_back();
    for (std::uint64_t fields = number(); fields > 0; --fields) {
      const std::uint64_t name_size = number(), size = number();
      const std::string name(piece(name_size));
      const std::string_view bytes = piece(size);
      const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
      rank.fields.emplace(name, std::vector<std::byte>(data, data + bytes.size()));
    }
  }
  if (at != body.size()) throw bad("bytes are left over");
  return ranks;
}

}  // namespace orrery
