#pragma once
// A Hugging Face Hub on the loopback (stub_hub.py), for one test or for a suite, and the environment that points to it.
#include <curl/curl.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "support/folder.h"

extern char** environ;

namespace lora {

// Sets an environment variable (nullopt: unsets it). The destructor restores it.
class Environment {
 public:
  Environment(std::string name, const std::optional<std::string>& value) : name_(std::move(name)) {
    if (const char* old = std::getenv(name_.c_str())) old_ = old;
    put(value);
  }
  ~Environment() { put(old_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  std::string name_;
  std::optional<std::string> old_;

  void put(const std::optional<std::string>& value) const {
    value ? ::setenv(name_.c_str(), value->c_str(), 1) : ::unsetenv(name_.c_str());
  }
};

class HubStub {
 public:
  // With `certificate` and `key`, the stub uses TLS.
  explicit HubStub(const std::string& certificate = "", const std::string& key = "") : certificate_(certificate) {
    std::vector<std::string> command{"python3", std::string(LORA_SOURCE_DIR) + "/tests/hub/stub_hub.py",
                                     root_.path().string()};
    if (!certificate.empty()) command.insert(command.end(), {"--tls", certificate, key});
    start(command);
  }
  ~HubStub() { stop(); }
  HubStub(const HubStub&) = delete;
  HubStub& operator=(const HubStub&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  const std::string& storage() const { return storage_; }
  const std::string& proxy() const { return proxy_; }

  // The folder of a repository's files. A slash in a revision is "%2F".
  std::filesystem::path folder(const std::string& repo_id, const std::string& revision = "main") const {
    return root_.path() / repo_id / revision;
  }
  void write(const std::string& repo_id, const std::string& file, std::string_view bytes,
             const std::string& revision = "main") const {
    auto path = folder(repo_id, revision) / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  // Makes a repository private or gated; `how` has the keys "private", "gated" and "token".
  void restrict(const std::string& repo_id, const nlohmann::json& how) const {
    std::filesystem::create_directories(root_.path() / repo_id);
    std::ofstream(root_.path() / repo_id / ".repo.json") << how.dump();
  }

  // Where the stub must behave differently from a Hub; see stub_hub.py.
  void rules(const nlohmann::json& rules) const { ask("/_stub/rules", rules.dump()); }
  // All requests since reset().
  nlohmann::json log() const { return nlohmann::json::parse(ask("/_stub/log", std::nullopt)); }
  void reset() const { ask("/_stub/reset", ""); }
  // "GET /owner/name/…" of each request to `server` (hub, storage, proxy), in order.
  std::vector<std::string> requests(const std::string& server = "hub") const {
    std::vector<std::string> lines;
    for (const auto& entry : log())
      if (entry["server"] == server)
        lines.push_back(entry["method"].get<std::string>() + " " + entry["path"].get<std::string>());
    return lines;
  }
  void stop() {
    if (pid_ == 0) return;
    ::close(in_);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  TemporaryFolder root_;
  std::string certificate_, endpoint_, storage_, proxy_;
  pid_t pid_ = 0;
  int in_ = -1;

  void start(const std::vector<std::string>& command) {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    std::vector<char*> arguments;
    for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    if (::posix_spawnp(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ) != 0)
      throw std::runtime_error("python3 cannot be started");
    posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]);
    ::close(out[1]);
    in_ = in[1];
    std::string line;
    for (char c = 0; ::read(out[0], &c, 1) == 1 && c != '\n';) line += c;
    ::close(out[0]);
    auto ready = nlohmann::json::parse(line);
    endpoint_ = ready["endpoint"];
    storage_ = ready["storage"];
    proxy_ = ready["proxy"];
  }

  std::string ask(const std::string& path, const std::optional<std::string>& body) const {
    std::string answer;
    auto* curl = curl_easy_init();
    curl_easy_setopt(curl, CURLOPT_URL, (endpoint_ + path).c_str());
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    if (!certificate_.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, certificate_.c_str());
    if (body) curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, long(body->size()));
    if (body) curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body->c_str());
    size_t (*take)(char*, size_t, size_t, void*) = [](char* data, size_t, size_t size, void* to) {
      static_cast<std::string*>(to)->append(data, size);
      return size;
    };
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    auto code = curl_easy_perform(curl);
    curl_easy_cleanup(curl);
    if (code != CURLE_OK)
      throw std::runtime_error(std::string("the stub does not answer: ") + curl_easy_strerror(code));
    return answer;
  }
};

// An own folder for the Hub's cache and login, and the stub as the Hub. The machine's own cache and login are not used.
class HubHome {
 public:
  explicit HubHome(const std::string& endpoint) {
    environment_.emplace_back("HF_ENDPOINT", endpoint);
    environment_.emplace_back("HF_HOME", folder_.path().string());
    for (const char* name : {"HF_HUB_CACHE",
                             "HUGGINGFACE_HUB_CACHE",
                             "HF_TOKEN",
                             "HUGGING_FACE_HUB_TOKEN",
                             "HF_TOKEN_PATH",
                             "HF_HUB_OFFLINE",
                             "TRANSFORMERS_OFFLINE",
                             "HF_HUB_DISABLE_SYMLINKS",
                             "HF_HUB_DISABLE_IMPLICIT_TOKEN",
                             "HF_HUB_ETAG_TIMEOUT",
                             "HF_HUB_DOWNLOAD_TIMEOUT",
                             "SSL_CERT_FILE",
                             "REQUESTS_CA_BUNDLE",
                             "CURL_CA_BUNDLE",
                             "http_proxy",
                             "HTTP_PROXY",
                             "https_proxy",
                             "HTTPS_PROXY",
                             "all_proxy",
                             "ALL_PROXY",
                             "no_proxy",
                             "NO_PROXY"})
      environment_.emplace_back(name, std::nullopt);
  }
  ~HubHome() {
    while (!environment_.empty()) environment_.pop_back();  // the last first
  }

  std::filesystem::path cache() const { return folder_ / "hub"; }
  std::filesystem::path repo(const std::string& name) const { return cache() / ("models--" + name); }
  void log_in(const std::string& token) const { folder_.write("token", token + "\n"); }

 private:
  TemporaryFolder folder_;
  std::deque<Environment> environment_;
};

}  // namespace lora
