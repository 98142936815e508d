#include "cache/signature.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "base/dylib.h"
#include "base/fs.h"
#include "base/hash.h"

namespace moejit::internal {
namespace {

constexpr int kEd25519 = 1087;  // libcrypto's number of the algorithm
constexpr size_t kKeyBytes = 32, kSignatureBytes = 64;
constexpr const char* kSecretHead = "moejit secret key 1";
constexpr const char* kPublicHead = "moejit public key 1";
constexpr const char* kSignatureHead = "moejit signature 1";

using Bytes = std::vector<uint8_t>;

// What is used of libcrypto; the signatures are part of its stable ABI.
struct Crypto {
  void* (*new_secret)(int type, void* engine, const uint8_t* key, size_t size) = nullptr;
  void* (*new_public)(int type, void* engine, const uint8_t* key, size_t size) = nullptr;
  int (*get_public)(const void* key, uint8_t* out, size_t* size) = nullptr;
  void (*free_key)(void* key) = nullptr;
  void* (*new_context)() = nullptr;
  void (*free_context)(void* context) = nullptr;
  int (*sign_init)(void* context, void** key_context, const void* digest, void* engine,
                   void* key) = nullptr;
  int (*sign)(void* context, uint8_t* out, size_t* size, const uint8_t* text,
              size_t length) = nullptr;
  int (*verify_init)(void* context, void** key_context, const void* digest, void* engine,
                     void* key) = nullptr;
  int (*verify)(void* context, const uint8_t* signature, size_t size, const uint8_t* text,
                size_t length) = nullptr;
};

Result<Crypto> load_crypto() {
  const auto library = Dylib::open_first({"libcrypto.so.3", "libcrypto.so.1.1"});
  if (!library.ok()) {
    return Status(StatusCode::kUnavailable,
                  "signatures need OpenSSL's libcrypto: " + library.status().message());
  }
  Crypto c;
  const bool whole = library->find("EVP_PKEY_new_raw_private_key", c.new_secret) &&
                     library->find("EVP_PKEY_new_raw_public_key", c.new_public) &&
                     library->find("EVP_PKEY_get_raw_public_key", c.get_public) &&
                     library->find("EVP_PKEY_free", c.free_key) &&
                     library->find("EVP_MD_CTX_new", c.new_context) &&
                     library->find("EVP_MD_CTX_free", c.free_context) &&
                     library->find("EVP_DigestSignInit", c.sign_init) &&
                     library->find("EVP_DigestSign", c.sign) &&
                     library->find("EVP_DigestVerifyInit", c.verify_init) &&
                     library->find("EVP_DigestVerify", c.verify);
  if (!whole) {
    return Status(StatusCode::kUnavailable,
                  library->path() + ": is no libcrypto with Ed25519 (OpenSSL 1.1.1 or newer)");
  }
  return c;
}

const Result<Crypto>& crypto() {
  static const Result<Crypto> loaded = load_crypto();
  return loaded;
}

using Handle = std::unique_ptr<void, void (*)(void*)>;

Status refused(const char* what) {
  return {StatusCode::kInternal, std::string("libcrypto refuses ") + what};
}

Result<Bytes> public_half(const Crypto& c, const Bytes& secret) {
  const Handle key(c.new_secret(kEd25519, nullptr, secret.data(), secret.size()), c.free_key);
  Bytes out(kKeyBytes);
  size_t size = out.size();
  if (key == nullptr || c.get_public(key.get(), out.data(), &size) != 1 || size != kKeyBytes)
    return refused("the secret key");
  return out;
}

// What is signed: never the bare digest, so that a signature means a pack and nothing else.
std::string statement(const std::string& sha256) {
  return "moejit pack 1\n" + sha256 + "\n";
}

std::string hex(const Bytes& bytes) {
  return to_hex(bytes.data(), bytes.size());
}

// Text that came from elsewhere, as a message may show it.
std::string shown(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, 80)) out += c >= ' ' && c <= '~' ? c : '?';
  return out;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else if (c != '\r') {
      lines.back() += c;
    }
  }
  return lines;
}

// The bytes behind `label` in a line of its own; empty where the line is not that.
Bytes field(const std::string& line, const std::string& label, size_t size) {
  Bytes bytes;
  if (!line.starts_with(label) || !from_hex(line.substr(label.size()), &bytes) ||
      bytes.size() != size) {
    bytes.clear();
  }
  return bytes;
}

Result<Bytes> read_secret(const std::string& path) {
  const auto text = read_file(path, 4096);
  if (!text.ok()) return text.status();
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && (info.st_mode & 077) != 0) {
    return invalid_argument("key " + path + ": others may read or write it; its mode must be 0600");
  }
  const auto lines = lines_of(*text);
  Bytes secret = lines.size() < 2 ? Bytes() : field(lines[1], "", kKeyBytes);
  if (lines[0] != kSecretHead || secret.empty()) {
    return invalid_argument("key " + path + ": must begin with \"" + kSecretHead +
                            "\" and 64 hexadecimal digits, as `moejit cache keygen` writes it");
  }
  return secret;
}

Status create_file(const std::string& path, const std::string& text, mode_t mode) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (file.get() < 0) return {StatusCode::kIoError, path + ": " + errno_message(errno)};
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return {StatusCode::kIoError, path + ": cannot be written"};
  return {};
}

}  // namespace

Result<std::string> file_sha256(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const auto failed = [&] {
    return Status(errno == ENOENT ? StatusCode::kNotFound : StatusCode::kIoError,
                  "cannot read " + path + ": " + errno_message(errno));
  };
  if (!fd) return failed();
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return failed();
  if (!S_ISREG(info.st_mode))  // a device may have no end
    return Status(StatusCode::kIoError, "cannot read " + path + ": it is no regular file");
  Sha256 hash;
  std::vector<uint8_t> piece(1 << 20);
  for (;;) {
    const ssize_t n = ::read(fd.get(), piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed();
    if (n == 0) break;
    hash.update(piece.data(), static_cast<size_t>(n));
  }
  const auto digest = hash.finish();
  return to_hex(digest.data(), digest.size());
}

Status signatures_available() {
  return crypto().status();
}

Status check_signing_key(const std::string& path) {
  if (!crypto().ok()) return crypto().status();
  return read_secret(path).status();
}

std::string signature_path(const std::string& pack) {
  return pack + ".sig";
}

Result<std::string> make_signing_key(const std::string& path) {
  if (!crypto().ok()) return crypto().status();
  const std::string public_path = path + ".pub";
  for (const std::string& file : {path, public_path}) {
    if (path_exists(file))
      return invalid_argument("file = \"" + file + "\": exists; a key is never replaced");
  }
  Bytes secret(kKeyBytes);
  if (::getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size()))
    return Status(StatusCode::kIoError, "no random numbers: " + errno_message(errno));
  const auto open_half = public_half(*crypto(), secret);
  if (!open_half.ok()) return open_half.status();
  const std::string key = hex(*open_half);
  MOEJIT_RETURN_IF_ERROR(
      create_file(path, std::string(kSecretHead) + "\n" + hex(secret) + "\n", 0600));
  MOEJIT_RETURN_IF_ERROR(
      create_file(public_path, std::string("# ") + kPublicHead + "\n" + key + "\n", 0644));
  return key;
}

Status sign_pack(const std::string& pack, const std::string& sha256, const std::string& key_path) {
  if (!crypto().ok()) return crypto().status();
  const Crypto& c = *crypto();
  const auto secret = read_secret(key_path);
  if (!secret.ok()) return secret.status();
  const auto open_half = public_half(c, *secret);
  if (!open_half.ok()) return open_half.status();
  const Handle key(c.new_secret(kEd25519, nullptr, secret->data(), secret->size()), c.free_key);
  const Handle context(c.new_context(), c.free_context);
  const std::string text = statement(sha256);
  Bytes signature(kSignatureBytes);
  size_t size = signature.size();
  if (key == nullptr || context == nullptr ||
      c.sign_init(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      c.sign(context.get(), signature.data(), &size, reinterpret_cast<const uint8_t*>(text.data()),
             text.size()) != 1 ||
      size != kSignatureBytes) {
    return refused("to sign");
  }
  return write_file(signature_path(pack), std::string(kSignatureHead) + "\nkey " + hex(*open_half) +
                                              "\nsignature " + hex(signature) + "\n");
}

Result<std::vector<std::string>> read_trusted_keys(const std::string& path) {
  const auto text = read_file(path, 1 << 20);
  if (!text.ok()) return text.status();
  std::vector<std::string> keys;
  int number = 0;
  for (const std::string& line : lines_of(*text)) {
    ++number;
    std::string word = line.substr(0, std::min(line.find('#'), line.find_first_of(" \t")));
    if (word.empty()) continue;
    const Bytes key = field(word, "", kKeyBytes);
    if (key.empty()) {
      return invalid_argument("trusted keys " + path + ", line " + std::to_string(number) +
                              ": must be 64 hexadecimal digits, not \"" +
                              (line == kSecretHead ? "a secret key" : shown(word)) + "\"");
    }
    keys.push_back(hex(key));
  }
  if (keys.empty()) return invalid_argument("trusted keys " + path + ": holds no key");
  return keys;
}

Result<std::string> check_signature(const std::string& pack, const std::string& sha256,
                                    const std::vector<std::string>& trusted) {
  if (!crypto().ok()) return crypto().status();
  const Crypto& c = *crypto();
  const std::string path = signature_path(pack);
  const auto failed = [&](const std::string& why) {
    return Status(StatusCode::kVerificationFailed, pack + ": " + why);
  };
  if (!path_exists(path)) return failed("is not signed: there is no " + path);
  const auto text = read_file(path, 4096);
  if (!text.ok()) return text.status();
  const auto lines = lines_of(*text);
  const Bytes key = lines.size() < 3 ? Bytes() : field(lines[1], "key ", kKeyBytes);
  const Bytes signature =
      lines.size() < 3 ? Bytes() : field(lines[2], "signature ", kSignatureBytes);
  if (lines[0] != kSignatureHead || key.empty() || signature.empty())
    return failed(path + " is no signature of version 1");
  const std::string name = hex(key);
  if (std::find(trusted.begin(), trusted.end(), name) == trusted.end())
    return failed("is signed by the key " + name + ", which is not a trusted one");
  const Handle handle(c.new_public(kEd25519, nullptr, key.data(), key.size()), c.free_key);
  const Handle context(c.new_context(), c.free_context);
  const std::string said = statement(sha256);
  if (handle == nullptr || context == nullptr ||
      c.verify_init(context.get(), nullptr, nullptr, nullptr, handle.get()) != 1) {
    return refused("to verify");
  }
  if (c.verify(context.get(), signature.data(), signature.size(),
               reinterpret_cast<const uint8_t*>(said.data()), said.size()) != 1) {
    return failed("has SHA-256 " + sha256 +
                  ", for which its signature is not: one of them was changed");
  }
  return name;
}

}  // namespace moejit::internal
