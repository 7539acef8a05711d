// The two products of spectral reweighting on NVIDIA GPUs, in float64: the Gram matrix of an image's shorter side and
// Y = M X. A block makes a tile of 64 x 64, a thread 4 x 4 of it: 16 operations for four reads of shared memory.
#pragma once

#include "common/launch.h"
#include "spectral_reweight/spectral_args.h"

namespace varfast {

struct SpectralTask {
  SpectralArgs spectral;
  int64_t batch, n, inner;  // n: the shorter side
  int64_t splits;           // of the Gram matrix's sum
  double* grams;            // (B, splits, n, n), upper halves
  double* m;                // (B, n, n)
  bool pairs;               // whether the products are made of pairs of float32 (products_pairs_cuda.h)
};

}  // namespace varfast

VF_BEGIN

constexpr int kGramTile = 64, kQuads = kGramTile / 4;
constexpr int kInner = 32;                 // of a sum in shared memory at a time
constexpr int kTilePitch = kGramTile + 2;  // even, so that two neighbours are one access

VF_DEVICE double number(double x) { return x; }
template <class T>
VF_DEVICE double number(T x) {
  return static_cast<double>(to_float(x));
}

// Element (i, k) of a matrix, wherever it lies.
template <class T>
struct MatrixView {
  view<const T> data;
  int64_t base, by_i, by_k;

  VF_DEVICE T stored(int64_t i, int64_t k) const { return data[base + i * by_i + k * by_k]; }
  VF_DEVICE double operator()(int64_t i, int64_t k) const { return number(stored(i, k)); }
};

// An image with its shorter side first: (n, inner).
template <class T>
VF_DEVICE MatrixView<T> image_of(const SpectralTask& task, int64_t image) {
  const SpectralArgs& args = task.spectral;
  const int64_t base = image * args.batch_stride, size = base + (args.length - 1) * args.row_stride + args.channels;
  const view<const T> data(static_cast<const T*>(args.x), size);
  if (args.length <= args.channels) return {data, base, args.row_stride, 1};
  return {data, base, 1, args.row_stride};
}

// Which number of a tile is the `at`-th to be staged: neighbouring threads read neighbours in memory, along k or along
// i. Along k a warp takes 8 of 4 rows: of a pitch that leaves 4 banks over, each goes to banks of its own.
struct TilePlace {
  int i, k;

  VF_HD int in(int pitch) const { return k * pitch + i; }
};
VF_HD TilePlace tile_place(int at, bool along_k) {
  if (!along_k) return {at % kGramTile, at / kGramTile};
  return {at / 8 % kGramTile, at / (8 * kGramTile) * 8 + at % 8};
}

// tile[k][i] = matrix(first + i, from + k), zero beyond the ends.
template <class T>
VF_DEVICE void stage(const MatrixView<T>& matrix, int64_t first, int64_t rows, int64_t from, int64_t inner,
                     const view<double>& tile) {
  for (int at = thread_x(); at < kGramTile * kInner; at += threads()) {
    const TilePlace place = tile_place(at, matrix.by_k == 1);
    const bool inside = first + place.i < rows && from + place.k < inner;
    tile[place.in(kTilePitch)] = inside ? matrix(first + place.i, from + place.k) : 0.0;
  }
}

// sum[r][c] += a[k][4 row + r] b[k][4 column + c] over a tile.
VF_DEVICE void multiply(const view<double>& a, const view<double>& b, int row, int column, double (&sum)[4][4]) {
  for (int k = 0; k < kInner; ++k) {
    double x[4], y[4];
    VF_UNROLL(2)
    for (int half = 0; half < 2; ++half) {
      const auto two = load_pack<2>(a, k * kTilePitch + row * 4 + half * 2);
      const auto other = load_pack<2>(b, k * kTilePitch + column * 4 + half * 2);
      for (int i = 0; i < 2; ++i) {
        x[half * 2 + i] = two.values[i];
        y[half * 2 + i] = other.values[i];
      }
    }
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 4; ++c) sum[r][c] = ::fma(x[r], y[c], sum[r][c]);
    }
  }
}

// The t-th pair (row, column) with row <= column.
struct PairOf {
  int row, column;
};
VF_HD PairOf pair_of(int t) {
  int column = 0;
  while (t > column) t -= ++column;
  return {t, column};
}
VF_HD int64_t pairs_of(int64_t count) { return count * (count + 1) / 2; }
VF_HD int64_t gram_tiles(int64_t n) { return (n + kGramTile - 1) / kGramTile; }
VF_HD int quads_of(int64_t rows) { return static_cast<int>(((rows < kGramTile ? rows : kGramTile) + 3) / 4); }
// A whole number of warps that holds one thread per piece of work.
inline int threads_for(int64_t work) { return static_cast<int>((work + 31) / 32 * 32); }

// What a block and a thread make of the Gram matrix: a share of the sum for 4 x 4 entries of a pair of tiles.
struct GramPlace {
  int64_t image, split, first, second, begin, end;
  int row, column;
  bool works;

  VF_DEVICE explicit GramPlace(const SpectralTask& task) {
    const int64_t pairs = pairs_of(gram_tiles(task.n));
    image = block_x() / pairs / task.splits;
    split = block_x() / pairs % task.splits;
    const PairOf tiles = pair_of(static_cast<int>(block_x() % pairs));
    first = tiles.row * kGramTile;
    second = tiles.column * kGramTile;
    const int rows = quads_of(task.n - first), columns = quads_of(task.n - second);
    const PairOf half = pair_of(thread_x());
    row = diagonal() ? half.row : thread_x() / columns;
    column = diagonal() ? half.column : thread_x() % columns;
    works = row < rows && column < columns;
    const int64_t chunk = (task.inner + task.splits - 1) / task.splits;
    begin = split * chunk;
    end = begin + chunk < task.inner ? begin + chunk : task.inner;
  }
  VF_DEVICE bool diagonal() const { return first == second; }
  VF_DEVICE void store(const SpectralTask& task, const double (&sum)[4][4]) const {
    const view<double> out(task.grams, task.batch * task.splits * task.n * task.n);
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 4; ++c) {
        const int64_t i = first + row * 4 + r, j = second + column * 4 + c;
        if (i < task.n && j < task.n) out[((image * task.splits + split) * task.n + i) * task.n + j] = sum[r][c];
      }
    }
  }
};

// The upper half of one share of X X^T: a block makes a pair of tiles.
template <class T>
VF_KERNEL gram_kernel(SpectralTask task) {
  VF_SHARED(double, left, kInner* kTilePitch);
  VF_SHARED(double, right, kInner* kTilePitch);
  const GramPlace place(task);
  const MatrixView<T> x = image_of<T>(task, place.image);
  double sum[4][4] = {};
  for (int64_t from = place.begin; from < place.end; from += kInner) {
    barrier();
    stage(x, place.first, task.n, from, place.end, left);
    if (!place.diagonal()) stage(x, place.second, task.n, from, place.end, right);
    barrier();
    if (place.works) multiply(left, place.diagonal() ? left : right, place.row, place.column, sum);
  }
  if (place.works) place.store(task, sum);
}

VF_DEVICE void put(double x, double* to) { *to = x; }
template <class T>
VF_DEVICE void put(double x, T* to) {
  from_float(static_cast<float>(x), to);
}

// What a block and a thread make of M X, or of its transpose: 4 x 4 entries of a tile.
template <class T>
struct ApplyPlace {
  int64_t image, first, second;
  int row, column;
  bool works;
  MatrixView<double> m;
  MatrixView<T> columns;

  VF_DEVICE explicit ApplyPlace(const SpectralTask& task)
      : image(block_x() / gram_tiles(task.inner) / gram_tiles(task.n)),
        first(block_x() / gram_tiles(task.inner) % gram_tiles(task.n) * kGramTile),
        second(block_x() % gram_tiles(task.inner) * kGramTile),
        row(thread_x() / kQuads),
        column(thread_x() % kQuads),
        works(first + row * 4 < task.n),
        m{view<const double>(task.m, task.batch * task.n * task.n), image * task.n * task.n, 1, task.n},
        columns(image_of<T>(task, image)) {  // M is symmetric: read along its rows
    const int64_t by_i = columns.by_i;
    columns.by_i = columns.by_k;
    columns.by_k = by_i;
  }
  VF_DEVICE void store(const SpectralTask& task, const double (&sum)[4][4]) const {
    const SpectralArgs& args = task.spectral;
    const bool by_rows = args.length <= args.channels;
    const int64_t size = args.length * args.channels;
    const view<T> y(static_cast<T*>(args.y) + image * size, size);
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 4; ++c) {
        const int64_t i = first + row * 4 + r, j = second + column * 4 + c;
        if (i >= task.n || j >= task.inner) continue;
        T value;
        put(sum[r][c], &value);
        y[by_rows ? i * args.channels + j : j * args.channels + i] = value;
      }
    }
  }
};

// Y = M X, or its transpose: a block makes one tile.
template <class T>
VF_KERNEL apply_kernel(SpectralTask task) {
  VF_SHARED(double, left, kInner* kTilePitch);
  VF_SHARED(double, right, kInner* kTilePitch);
  const ApplyPlace<T> place(task);
  double sum[4][4] = {};
  for (int64_t from = 0; from < task.n; from += kInner) {
    barrier();
    stage(place.m, place.first, task.n, from, task.n, left);
    stage(place.columns, place.second, task.inner, from, task.n, right);
    barrier();
    if (place.works) multiply(left, right, place.row, place.column, sum);
  }
  if (place.works) place.store(task, sum);
}

VF_END
