#include "scenarios/cli/sweep_store.hpp"

#include <fmt/core.h>
#include <sqlite3.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "backend/core/error.hpp"

namespace orrery::cli {

namespace fs = std::filesystem;

// A connection; every failure is an Error{config} that names the file.
class SweepStore::Database {
 public:
  Database(std::string path, int flags) : path_(std::move(path)) {
    const int opened = sqlite3_open_v2(path_.c_str(), &handle_, flags, nullptr);
    if (opened != SQLITE_OK) {
      const std::string why = handle_ != nullptr ? sqlite3_errmsg(handle_) : "no memory";
      sqlite3_close(handle_);
      throw Error(Category::config, "cannot open the results of a sweep: " + why)
          .with("file", path_);
    }
    sqlite3_busy_timeout(handle_, 60'000);  // another process looks at it
  }
  ~Database() { sqlite3_close(handle_); }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  void check(int status) const {
    if (status == SQLITE_OK || status == SQLITE_DONE || status == SQLITE_ROW) return;
    throw Error(Category::config, std::string("the results of a sweep: ") + sqlite3_errmsg(handle_))
        .with("file", path_);
  }
  void execute(const char* sql) const {
    check(sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr));
  }

  class Statement {
   public:
    Statement(const Database& database, const char* sql) : database_(database) {
      database.check(sqlite3_prepare_v2(database.handle_, sql, -1, &statement_, nullptr));
    }
    ~Statement() { sqlite3_finalize(statement_); }
    Statement(const Statement&) = delete;
    Statement& operator=(const Statement&) = delete;
    void bind(int place, const std::string& text) {
      database_.check(sqlite3_bind_text64(statement_, place, text.data(), text.size(),
                                          SQLITE_TRANSIENT, SQLITE_UTF8));
    }
    void bind(int place, int value) { database_.check(sqlite3_bind_int(statement_, place, value)); }
    bool step() {
      const int status = sqlite3_step(statement_);
      database_.check(status);
      return status == SQLITE_ROW;
    }
    std::string text(int column) {
      const unsigned char* at = sqlite3_column_text(statement_, column);
      return at == nullptr ? "" : std::string(reinterpret_cast<const char*>(at));
    }
    int integer(int column) { return sqlite3_column_int(statement_, column); }

   private:
    const Database& database_;
    sqlite3_stmt* statement_ = nullptr;
  };

 private:
  std::string path_;
  sqlite3* handle_ = nullptr;
};

SweepStore::SweepStore(const std::string& folder, const SweepPart& part) : folder_(folder) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed)
    throw Error(Category::config, "cannot make the folder: " + failed.message())
        .with("file", folder);
  own_ = std::make_unique<Database>(
      (fs::path(folder) / fmt::format("part-{}-of-{}.sqlite", part.index + 1, part.of)).string(),
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
  own_->execute("PRAGMA synchronous = FULL");
  own_->execute(
      "CREATE TABLE IF NOT EXISTS points "
      "(key TEXT PRIMARY KEY, exit_code INTEGER NOT NULL, json TEXT NOT NULL)");
}

SweepStore::~SweepStore() = default;

void SweepStore::add(const std::string& key, const StoredPoint& point) {
  Database::Statement insert(*own_, "INSERT OR REPLACE INTO points VALUES (?, ?, ?)");
  insert.bind(1, key);
  insert.bind(2, point.exit_code);
  insert.bind(3, point.json);
  insert.step();
}

std::map<std::string, StoredPoint> SweepStore::all() const {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder_))
    if (entry.path().extension() == ".sqlite") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  std::map<std::string, StoredPoint> points;
  for (const std::string& file : files) {
    // Read and write: what a killed process left half done is rolled back by whoever looks first.
    const Database database(file, SQLITE_OPEN_READWRITE);
    // Another part may have made its file and not yet its table.
    Database::Statement table(
        database, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'points'");
    if (!table.step()) continue;
    Database::Statement select(database, "SELECT key, exit_code, json FROM points");
    while (select.step()) points[select.text(0)] = {select.integer(1), select.text(2)};
  }
  return points;
}

}  // namespace orrery::cli
