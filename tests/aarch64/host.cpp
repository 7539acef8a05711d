// The op library in a program without torch, for a processor that this machine emulates: stands in for the part of
// torch's C interface that the library takes, and calls the kernels that it registers. Calls come as bytes on standard
// input, results go to standard output (tests/aarch64.py writes and reads them).
#include <dlfcn.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

struct FakeTensor {
  int32_t dtype = 0;
  std::vector<int64_t> sizes, strides;
  std::shared_ptr<char[]> data;
};

FakeTensor& tensor(AtenTensorHandle handle) { return *reinterpret_cast<FakeTensor*>(handle); }
AtenTensorHandle handle_of(FakeTensor* made) { return reinterpret_cast<AtenTensorHandle>(made); }

using List = std::vector<StableIValue>;
List& list(StableListHandle handle) { return *reinterpret_cast<List*>(handle); }
std::string& text(StringHandle handle) { return *reinterpret_cast<std::string*>(handle); }

using Kernel = void (*)(StableIValue*, uint64_t, uint64_t);
std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> known;
  return known;
}

int64_t count(const FakeTensor& x) {
  int64_t out = 1;
  for (const int64_t size : x.sizes) out *= size;
  return out;
}

bool contiguous(const FakeTensor& x) {
  if (count(x) == 0) return true;
  int64_t stride = 1;
  for (std::size_t d = x.sizes.size(); d-- > 0; stride *= x.sizes[d]) {
    if (x.sizes[d] != 1 && x.strides[d] != stride) return false;
  }
  return true;
}

FakeTensor* made(int32_t dtype, std::vector<int64_t> sizes, std::vector<int64_t> strides, int64_t elements) {
  const std::size_t bytes = static_cast<std::size_t>(elements) * aoti_torch_dtype_element_size(dtype);
  // Aligned as torch's are; what nobody writes is no float and no id of ours.
  char* data = static_cast<char*>(std::aligned_alloc(64, (bytes + 64) / 64 * 64));
  std::memset(data, 0x7f, bytes);
  return new FakeTensor{dtype, std::move(sizes), std::move(strides), {data, [](char* p) { std::free(p); }}};
}

FakeTensor* made(int32_t dtype, std::vector<int64_t> sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (std::size_t d = sizes.size(); d-- > 0; stride *= sizes[d]) strides[d] = stride;
  return made(dtype, std::move(sizes), std::move(strides), stride);
}

FakeTensor* packed(const FakeTensor& x) {
  FakeTensor* const out = made(x.dtype, x.sizes);
  const std::size_t each = aoti_torch_dtype_element_size(x.dtype);
  for (int64_t i = 0; i < count(x); ++i) {
    int64_t at = 0, left = i;
    for (std::size_t d = x.sizes.size(); d-- > 0; left /= x.sizes[d]) at += left % x.sizes[d] * x.strides[d];
    std::memcpy(out->data.get() + i * each, x.data.get() + at * each, each);
  }
  return out;
}

template <class T>
AOTITorchError give(T* to, T value) {
  *to = value;
  return AOTI_TORCH_SUCCESS;
}

template <class T>
AOTITorchError drop(T* owned) {
  delete owned;
  return AOTI_TORCH_SUCCESS;
}

}  // namespace

// Torch's numbers of dtypes and devices; a program that is asked for another name ends there.
extern "C" {
int32_t aoti_torch_device_type_cpu() { return 0; }
int32_t aoti_torch_dtype_uint8() { return 0; }
int32_t aoti_torch_dtype_int8() { return 1; }
int32_t aoti_torch_dtype_int16() { return 2; }
int32_t aoti_torch_dtype_int32() { return 3; }
int32_t aoti_torch_dtype_int64() { return 4; }
int32_t aoti_torch_dtype_float16() { return 5; }
int32_t aoti_torch_dtype_float32() { return 6; }
int32_t aoti_torch_dtype_float64() { return 7; }
int32_t aoti_torch_dtype_complex32() { return 8; }
int32_t aoti_torch_dtype_complex64() { return 9; }
int32_t aoti_torch_dtype_complex128() { return 10; }
int32_t aoti_torch_dtype_bool() { return 11; }
int32_t aoti_torch_dtype_bfloat16() { return 15; }
int32_t aoti_torch_memory_format_contiguous_format() { return 0; }
uint64_t aoti_torch_abi_version() { return TORCH_FEATURE_VERSION; }
size_t aoti_torch_dtype_element_size(int32_t dtype) {
  constexpr size_t sizes[] = {1, 1, 2, 4, 8, 2, 4, 8, 4, 8, 16, 1, 0, 0, 0, 2};
  return sizes[dtype];
}

AOTITorchError aoti_torch_get_dim(AtenTensorHandle x, int64_t* out) {
  return give(out, static_cast<int64_t>(tensor(x).sizes.size()));
}
AOTITorchError aoti_torch_get_numel(AtenTensorHandle x, int64_t* out) { return give(out, count(tensor(x))); }
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle x, int32_t* out) { return give(out, tensor(x).dtype); }
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* out) { return give(out, 0); }
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* out) { return give(out, -1); }
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle x, bool* out) { return give(out, contiguous(tensor(x))); }
AOTITorchError aoti_torch_get_size(AtenTensorHandle x, int64_t d, int64_t* out) {
  const FakeTensor& of = tensor(x);
  return give(out, of.sizes.at(d < 0 ? d + of.sizes.size() : d));
}
AOTITorchError aoti_torch_get_stride(AtenTensorHandle x, int64_t d, int64_t* out) {
  const FakeTensor& of = tensor(x);
  return give(out, of.strides.at(d < 0 ? d + of.sizes.size() : d));
}
AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle x, void** out) {
  return give(out, static_cast<void*>(tensor(x).data.get()));
}
AOTITorchError torch_get_const_data_ptr(AtenTensorHandle x, const void** out) {
  return give(out, static_cast<const void*>(tensor(x).data.get()));
}
AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle x, AtenTensorHandle* out) {
  return give(out, handle_of(new FakeTensor(tensor(x))));
}
AOTITorchError aoti_torch_new_uninitialized_tensor(AtenTensorHandle* out) {
  return give(out, handle_of(new FakeTensor{}));
}
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle x) { return drop(&tensor(x)); }
AOTITorchError aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t, int32_t, AtenTensorHandle* out) {
  int64_t elements = 1;
  for (int64_t d = 0; d < dims; ++d) elements *= sizes[d];
  return give(out, handle_of(made(dtype, {sizes, sizes + dims}, {strides, strides + dims}, elements)));
}

AOTITorchError torch_call_dispatcher(const char* name, const char*, StableIValue* stack, uint64_t) {
  if (std::strcmp(name, "aten::contiguous") != 0) return AOTI_TORCH_FAILURE;
  const AtenTensorHandle given = reinterpret_cast<AtenTensorHandle>(stack[0]);
  stack[0] = reinterpret_cast<StableIValue>(packed(tensor(given)));
  return aoti_torch_delete_tensor_object(given);
}

AOTITorchError torch_new_list_reserve_size(size_t, StableListHandle* out) {
  return give(out, reinterpret_cast<StableListHandle>(new List));
}
AOTITorchError torch_list_size(StableListHandle x, size_t* out) { return give(out, list(x).size()); }
AOTITorchError torch_list_get_item(StableListHandle x, size_t i, StableIValue* out) { return give(out, list(x).at(i)); }
AOTITorchError torch_list_push_back(StableListHandle x, StableIValue value) {
  list(x).push_back(value);
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError torch_delete_list(StableListHandle x) { return drop(&list(x)); }
AOTITorchError torch_string_length(StringHandle x, size_t* out) { return give(out, text(x).size()); }
AOTITorchError torch_string_c_str(StringHandle x, const char** out) { return give(out, text(x).c_str()); }
AOTITorchError torch_delete_string(StringHandle x) { return drop(&text(x)); }

// Two threads, one after the other: shares of the work, and scratch that the second finds as the first left it.
AOTITorchError torch_get_num_threads(uint32_t* out) { return give(out, 2u); }
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc work, void* context) {
  if (begin >= end) return AOTI_TORCH_SUCCESS;
  const int64_t middle = end - begin > grain ? begin + (end - begin) / 2 : end;
  work(begin, middle, context);
  if (middle < end) work(middle, end, context);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t, TorchLibraryHandle* out) {
  return give(out, TorchLibraryHandle{});
}
AOTITorchError aoti_torch_library_init_fragment(const char*, const char*, uint32_t, TorchLibraryHandle* out) {
  return give(out, TorchLibraryHandle{});
}
AOTITorchError aoti_torch_library_def(TorchLibraryHandle, const char*) { return AOTI_TORCH_SUCCESS; }
AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle) { return AOTI_TORCH_SUCCESS; }
AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name, Kernel kernel, uint64_t) {
  kernels()[name] = kernel;
  return AOTI_TORCH_SUCCESS;
}
}

namespace {

// False at the end of the input.
bool read_bytes(void* to, std::size_t bytes) { return bytes == 0 || std::fread(to, 1, bytes, stdin) == bytes; }
template <class T>
T read() {
  T out{};
  if (!read_bytes(&out, sizeof out)) std::exit(3);
  return out;
}
template <class T>
std::vector<T> read_many() {
  std::vector<T> out(read<uint64_t>());
  if (!read_bytes(out.data(), out.size() * sizeof(T))) std::exit(3);
  return out;
}
template <class T>
void write(T value) {
  std::fwrite(&value, sizeof value, 1, stdout);
}
template <class T>
void write_many(const T* data, uint64_t size) {
  write(size);
  std::fwrite(data, sizeof(T), size, stdout);
}

StableIValue read_value(char kind) {
  switch (kind) {
    case 'i':
    case 'f':  // its bits
    case 'b':
      return read<StableIValue>();
    case 's': {
      const std::vector<char> letters = read_many<char>();
      return reinterpret_cast<StableIValue>(new std::string(letters.begin(), letters.end()));
    }
    case 'l':
      return reinterpret_cast<StableIValue>(new List(read_many<StableIValue>()));
    case 't': {
      const int32_t dtype = read<int32_t>();
      std::vector<int64_t> sizes = read_many<int64_t>(), strides = read_many<int64_t>();
      const std::vector<char> bytes = read_many<char>();
      const int64_t elements = static_cast<int64_t>(bytes.size() / aoti_torch_dtype_element_size(dtype));
      FakeTensor* const out = made(dtype, std::move(sizes), std::move(strides), elements);
      if (!bytes.empty()) std::memcpy(out->data.get(), bytes.data(), bytes.size());
      return reinterpret_cast<StableIValue>(out);
    }
    default:
      std::exit(3);
  }
}

// A value that the schema calls optional comes with a capital, or as '-' where there is none.
StableIValue read_argument() {
  const char kind = read<char>();
  if (kind == '-') return 0;
  const bool optional = kind >= 'A' && kind <= 'Z';
  const StableIValue value = read_value(optional ? static_cast<char>(kind - 'A' + 'a') : kind);
  return optional ? reinterpret_cast<StableIValue>(new StableIValue(value)) : value;
}

void write_tensor(StableIValue value) {
  const AtenTensorHandle handle = reinterpret_cast<AtenTensorHandle>(value);
  FakeTensor& x = tensor(handle);
  if (!contiguous(x)) std::exit(4);
  write(x.dtype);
  write_many(x.sizes.data(), x.sizes.size());
  write_many(x.data.get(), count(x) * aoti_torch_dtype_element_size(x.dtype));
  aoti_torch_delete_tensor_object(handle);
}

void write_result(StableIValue value, char kind) {
  if (kind == 'i') return write(value);
  if (kind == 't') return write_tensor(value);
  List& results = list(reinterpret_cast<StableListHandle>(value));
  write(static_cast<uint64_t>(results.size()));
  for (const StableIValue each : results) write_tensor(each);
  delete &results;
}

// One call; false at the end of the input.
bool serve() {
  uint64_t length = 0;
  if (!read_bytes(&length, sizeof length)) return false;
  std::string name(length, ' ');
  if (!read_bytes(name.data(), length)) return false;
  const std::vector<char> results = read_many<char>();
  std::vector<StableIValue> stack(read<uint64_t>());
  const uint64_t arguments = stack.size();
  for (StableIValue& value : stack) value = read_argument();
  stack.resize(std::max<std::size_t>(arguments, results.size()));
  try {
    kernels().at(name)(stack.data(), arguments, results.size());
    write('y');
    for (std::size_t i = 0; i < results.size(); ++i) write_result(stack[i], results[i]);
  } catch (const std::exception& error) {
    write('n');
    write_many(error.what(), std::strlen(error.what()));
  }
  std::fflush(stdout);
  return true;
}

}  // namespace

// LIBRARY: says which instruction set it uses and what else it was built for, then serves.
int main(int, char** argv) {
  void* const library = dlopen(argv[1], RTLD_LAZY | RTLD_GLOBAL);
  if (library == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  for (const char* name : {"varfast_simd_level", "varfast_build_levels"}) {
    const auto said = reinterpret_cast<const char* (*)()>(dlsym(library, name));
    write_many(said(), std::strlen(said()));
  }
  std::fflush(stdout);
  while (serve()) {
  }
}
