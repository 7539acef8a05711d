// How an emulated test program gets its arrays from pytest and hands its results back: raw numbers in two files.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

class Files {
 public:
  Files(const char* in, const char* out) : in_(std::fopen(in, "rb")), out_(std::fopen(out, "wb")) {
    if (in_ == nullptr || out_ == nullptr) fail("cannot open");
  }
  ~Files() {
    std::fclose(in_);
    std::fclose(out_);
  }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  template <class T>
  std::vector<T> read(int64_t count) {
    std::vector<T> values(static_cast<std::size_t>(count));
    if (count > 0 && std::fread(values.data(), sizeof(T), values.size(), in_) != values.size())
      fail("input is too short");
    return values;
  }
  template <class T>
  T read() {
    return read<T>(1)[0];
  }
  template <class T>
  void write(const std::vector<T>& values) {
    if (!values.empty() && std::fwrite(values.data(), sizeof(T), values.size(), out_) != values.size())
      fail("cannot write");
  }

 private:
  [[noreturn]] static void fail(const char* why) {
    std::fprintf(stderr, "%s\n", why);
    std::exit(1);
  }
  std::FILE *in_, *out_;
};

// A result nobody has written: no float and no id of ours has these bits, in any width.
template <class T>
std::vector<T> blank(int64_t count) {
  std::vector<T> out(static_cast<std::size_t>(count));
  unsigned char* const bytes = reinterpret_cast<unsigned char*>(out.data());
  for (std::size_t i = 0; i < out.size() * sizeof(T); ++i) bytes[i] = i % 2 == 0 ? 0xa5 : 0x7f;
  return out;
}

// Ends the program where a launch failed.
inline void check(const char* error) {
  if (error == nullptr) return;
  std::fprintf(stderr, "%s\n", error);
  std::exit(1);
}
