// Who made a pack: an Ed25519 signature beside it. The arithmetic is OpenSSL's libcrypto, opened at
// run time; without it nothing can be signed or trusted, and everything else works.
// docs/cache_format.md describes the files.
#pragma once

#include <string>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal {

// Why signatures cannot be made and checked here; ok where they can.
Status signatures_available();

// Why this secret key cannot sign; ok where it can.
Status check_signing_key(const std::string& path);

// Of a file's bytes, 64 hexadecimal digits.
Result<std::string> file_sha256(const std::string& path);

// A new key pair: `path` gets the secret half (mode 0600), `path`.pub the public one. Neither may
// exist. Returns the public key in hexadecimal.
Result<std::string> make_signing_key(const std::string& path);

// Writes pack.sig for the file's SHA-256 (64 hexadecimal digits). kInvalidArgument where `key_path`
// holds no secret key; a key that others may read is refused.
Status sign_pack(const std::string& pack, const std::string& sha256, const std::string& key_path);

// The name under which a pack's signature lies beside it.
std::string signature_path(const std::string& pack);

// Public keys of a file: lines of 64 hexadecimal digits; what follows a key and # is a comment.
Result<std::vector<std::string>> read_trusted_keys(const std::string& path);

// Returns the key that signed the pack with this SHA-256. kVerificationFailed where there is no
// signature, where it is of another key than the trusted ones, and where it is not of these bytes.
Result<std::string> check_signature(const std::string& pack, const std::string& sha256,
                                    const std::vector<std::string>& trusted);

}  // namespace moejit::internal
