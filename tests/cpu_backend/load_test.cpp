// Binaries from outside: damaged ones are refused, good ones keep apart.
#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "backends/cpu/elf_image.h"
#include "tests/cpu_backend/sources.h"

namespace moejit::internal {
namespace {

using ::testing::HasSubstr;

class LoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    MOEJIT_NEED_COMPILER();
    auto device = open_device("cpu:x86-64-v3", 1);
    if (!device.ok()) GTEST_SKIP() << device.status().to_string();
    device_ = *device;
    binary_ = compile(123);
  }
  Binary compile(int value) {
    auto binary = device_->compile(constant_kernel(value));
    EXPECT_TRUE(binary.ok()) << binary.status().to_string();
    return binary.ok() ? *binary : Binary{};
  }
  std::shared_ptr<const Module> load(int value) {
    auto module = device_->load(compile(value), constant_kernel(value));
    EXPECT_TRUE(module.ok()) << module.status().to_string();
    return module.ok() ? *module : nullptr;
  }
  static int call(const std::shared_ptr<const Module>& module) {
    int out = -1;
    MoeArgs args{};
    args.out = &out;
    EXPECT_TRUE(module->launch(args, nullptr).ok());
    return out;
  }
  // The image with `edit` done to it and a checksum that fits.
  std::vector<uint8_t> edited(const std::function<void(uint8_t*)>& edit) {
    std::vector<uint8_t> bytes(binary_.bytes.begin(), binary_.bytes.end() - 16);
    edit(bytes.data());
    seal_image(bytes);
    return bytes;
  }

  const Device* device_ = nullptr;
  Binary binary_;
};

TEST_F(LoadTest, FormatAndArchAreCheckedFirst) {
  Binary other = binary_;
  other.format = "cubin";
  EXPECT_EQ(device_->load(other, constant_kernel(1)).status().code(), StatusCode::kDataError);
  for (const char* arch : {"x86-64-v5", "", "sm_90a", "x86-64-v4+bf16+more"}) {
    other = binary_;
    other.arch = arch;
    const auto status = device_->load(other, constant_kernel(1)).status();
    EXPECT_EQ(status.code(), StatusCode::kUnsupported) << arch;
    EXPECT_THAT(status.message(), HasSubstr("this CPU runs code up to"));
  }
}

TEST_F(LoadTest, EntriesMustBeInTheBinary) {
  KernelSource source = constant_kernel(1);
  source.entries[0].name = "other";
  const auto status = device_->load(binary_, source).status();
  EXPECT_EQ(status.code(), StatusCode::kDataError);
  EXPECT_THAT(status.message(), HasSubstr("other"));
  source.entries.clear();
  EXPECT_EQ(device_->load(binary_, source).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(LoadTest, EveryTruncationIsRefused) {
  Binary cut = binary_;
  for (size_t size = 0; size < binary_.bytes.size(); ++size) {
    cut.bytes.assign(binary_.bytes.begin(), binary_.bytes.begin() + static_cast<ptrdiff_t>(size));
    ASSERT_EQ(device_->load(cut, constant_kernel(1)).status().code(), StatusCode::kDataError)
        << size;
  }
}

TEST_F(LoadTest, EveryFlippedByteIsRefused) {
  Binary flipped = binary_;
  for (size_t i = 0; i < binary_.bytes.size(); ++i) {
    flipped.bytes[i] ^= 0x40;
    ASSERT_EQ(device_->load(flipped, constant_kernel(1)).status().code(), StatusCode::kDataError)
        << i;
    flipped.bytes[i] ^= 0x40;
  }
}

TEST_F(LoadTest, StructureIsCheckedWhereTheChecksumFits) {
  ASSERT_TRUE(check_image(edited([](uint8_t*) {})).ok());
  const auto header = [](uint8_t* bytes) { return reinterpret_cast<Elf64_Ehdr*>(bytes); };
  const auto segment = [&](uint8_t* bytes, int i) {
    return reinterpret_cast<Elf64_Phdr*>(bytes + header(bytes)->e_phoff) + i;
  };
  const std::vector<std::function<void(uint8_t*)>> edits = {
      [&](uint8_t* b) { b[0] = 0; },
      [&](uint8_t* b) { b[EI_CLASS] = ELFCLASS32; },
      [&](uint8_t* b) { b[EI_DATA] = ELFDATA2MSB; },
      [&](uint8_t* b) { header(b)->e_machine = EM_AARCH64; },
      [&](uint8_t* b) { header(b)->e_type = ET_EXEC; },
      [&](uint8_t* b) { header(b)->e_phoff = ~uint64_t{0} - 8; },
      [&](uint8_t* b) { header(b)->e_phnum = 60000; },
      [&](uint8_t* b) { header(b)->e_phnum = 0; },
      [&](uint8_t* b) { segment(b, 1)->p_offset = 1 << 20; },
      [&](uint8_t* b) { segment(b, 1)->p_filesz = ~uint64_t{0}; },
      [&](uint8_t* b) { segment(b, 1)->p_memsz = 0; },
      [&](uint8_t* b) { segment(b, 1)->p_flags |= PF_W; },
      [&](uint8_t* b) { segment(b, 1)->p_vaddr = 0; },
      [&](uint8_t* b) { segment(b, 2)->p_memsz = uint64_t{1} << 40; },
      [&](uint8_t* b) { segment(b, 3)->p_type = PT_INTERP; },
      [&](uint8_t* b) { segment(b, 3)->p_filesz = 16; },
      [&](uint8_t* b) {
        reinterpret_cast<Elf64_Dyn*>(b + segment(b, 3)->p_offset)->d_tag = DT_NEEDED;
      },
      [&](uint8_t* b) {
        reinterpret_cast<Elf64_Dyn*>(b + segment(b, 3)->p_offset)->d_tag = DT_INIT;
      },
  };
  for (size_t i = 0; i < edits.size(); ++i) {
    EXPECT_EQ(check_image(edited(edits[i])).code(), StatusCode::kDataError) << "edit " << i;
  }
}

// The loader knows libraries by path: a path that comes twice gives the earlier library's code.
TEST_F(LoadTest, ModulesKeepApart) {
  std::vector<std::shared_ptr<const Module>> modules;
  for (int value = 0; value < 12; ++value) {
    modules.push_back(load(value));
    ASSERT_NE(modules.back(), nullptr);
    if (value % 3 == 1)
      modules[static_cast<size_t>(value) - 1] = nullptr;  // frees a descriptor for reuse
    for (int i = 0; i <= value; ++i) {
      if (modules[static_cast<size_t>(i)] == nullptr) continue;
      ASSERT_EQ(call(modules[static_cast<size_t>(i)]), i);
    }
  }
}

TEST_F(LoadTest, OneBinaryLoadsManyTimes) {
  const auto first = device_->load(binary_, constant_kernel(123));
  const auto second = device_->load(binary_, constant_kernel(123));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(call(*first), 123);
  EXPECT_EQ(call(*second), 123);
}

TEST_F(LoadTest, MapsThroughAFileWhereMemoryFilesAreNotAllowed) {
  TemporaryFolder folder;
  ScopedEnv env("TMPDIR", folder.path());
  std::vector<std::shared_ptr<const LoadedImage>> images;
  for (int value = 40; value < 44; ++value) {
    auto image = LoadedImage::load(compile(value).bytes, "name", MapVia::kFile);
    ASSERT_TRUE(image.ok()) << image.status().to_string();
    images.push_back(*image);
  }
  for (int i = 0; i < 4; ++i) {
    int out = -1;
    MoeArgs args{};
    args.out = &out;
    auto* go = reinterpret_cast<void (*)(const MoeArgs*, int, int)>(
        images[static_cast<size_t>(i)]->symbol("go"));
    ASSERT_NE(go, nullptr);
    go(&args, 0, 1);
    EXPECT_EQ(out, 40 + i);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  ScopedEnv nowhere("TMPDIR", "/nowhere");
  EXPECT_EQ(LoadedImage::load(binary_.bytes, "name", MapVia::kFile).status().code(),
            StatusCode::kDeviceError);
}

TEST_F(LoadTest, OnlyEntriesAreVisible) {
  const KernelSource source = kernel(
      "int helper(int x) { return x + 1; }\n"
      "extern \"C\" void go(const MoeArgs* a, int w, int) { *(int*)a->out = helper(w); }");
  const auto binary = device_->compile(source);
  ASSERT_TRUE(binary.ok());
  const auto image = LoadedImage::load(binary->bytes, "name");
  ASSERT_TRUE(image.ok());
  EXPECT_NE((*image)->symbol("go"), nullptr);
  EXPECT_EQ((*image)->symbol("_Z6helperi"), nullptr);
}

// A process that only runs what others compiled maps no compiler.
TEST(LoadWithoutCompiler, MapsNoLlvm) {
  TemporaryFolder folder;
  const std::string path = folder.path() / "binary";
  if (getenv("MOEJIT_TEST_BINARY") == nullptr) {
    MOEJIT_NEED_COMPILER();
    const auto device = open_device("cpu:x86-64-v3");
    if (!device.ok()) GTEST_SKIP() << device.status().to_string();
    const auto binary = (*device)->compile(constant_kernel(77));
    ASSERT_TRUE(binary.ok());
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(binary->bytes.data()),
               static_cast<std::streamsize>(binary->bytes.size()));
  }
  in_new_process("MOEJIT_TEST_BINARY", path, [] {
    const std::string bytes = read_text(getenv("MOEJIT_TEST_BINARY"));
    const auto device = open_device("cpu:x86-64-v3");
    ASSERT_TRUE(device.ok());
    Binary binary;
    binary.format = "elf-so";
    binary.arch = "x86-64-v3";
    binary.bytes.assign(bytes.begin(), bytes.end());
    const auto module = (*device)->load(binary, constant_kernel(77));
    ASSERT_TRUE(module.ok()) << module.status().to_string();
    int out = -1;
    MoeArgs args{};
    args.out = &out;
    ASSERT_TRUE((*module)->launch(args, nullptr).ok());
    EXPECT_EQ(out, 77);
    const std::string maps = read_text("/proc/self/maps");
    EXPECT_EQ(maps.find("LLVM"), std::string::npos);
    EXPECT_EQ(maps.find("clang"), std::string::npos);
  });
}

}  // namespace
}  // namespace moejit::internal
