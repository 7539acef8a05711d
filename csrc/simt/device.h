// What a kernel calls: the twins of common/launch.h's device functions, on top of simt.h.
#pragma once

VF_BEGIN

inline int64_t block_x() { return simt::cluster->first + simt::cluster->rank(); }
inline int thread_x() { return simt::cluster->current % simt::cluster->size; }
inline int threads() { return simt::cluster->size; }
inline int cluster_rank() { return simt::cluster->rank(); }
inline int cluster_size() { return simt::cluster->blocks; }
inline int lane() { return thread_x() % simt::kWarp; }
inline int warp() { return thread_x() / simt::kWarp; }
inline int warps() { return threads() / simt::kWarp; }
inline void rematerialise(int&) {}
// As the machine's: nothing below the upper 32 bits.
inline double rough_rsqrt(double x) {
  const double y = 1.0 / std::sqrt(x);
  uint64_t bits;
  memcpy(&bits, &y, sizeof(bits));
  bits &= ~uint64_t{0xffffffff};
  double out;
  memcpy(&out, &bits, sizeof(out));
  return out;
}
template <class T>
view<T> keep_address(const view<T>& x, int64_t i) {
  return x.after(i);
}
inline void barrier(simt::Site site = simt::Site::current()) { simt::wait(simt::State::at_block_barrier, site); }
inline void cluster_barrier(simt::Site site = simt::Site::current()) {
  simt::wait(simt::State::at_cluster_barrier, site);
}
inline void warp_barrier(simt::Site site = simt::Site::current()) {
  simt::wait(simt::State::at_warp_barrier, site);
  ++simt::cluster->self().warp_epoch;
}

template <class T>
T shuffle(T value, int from, simt::Site site = simt::Site::current()) {
  return simt::exchange(value, from % simt::kWarp, site);
}
template <class T>
T shuffle_xor(T value, int mask, simt::Site site = simt::Site::current()) {
  return simt::exchange(value, lane() ^ mask, site);
}
template <class T>
T shuffle_up(T value, int by, simt::Site site = simt::Site::current()) {
  return simt::exchange(value, lane() >= by ? lane() - by : lane(), site);
}
inline uint32_t ballot(bool p, simt::Site site = simt::Site::current()) {
  uint32_t bits = p ? 1u << lane() : 0u;
  for (int mask = 1; mask < simt::kWarp; mask <<= 1) bits |= simt::exchange(bits, lane() ^ mask, site);
  return bits;
}

template <class T>
view<T> remote(const view<T>& mine, int rank) {
  return simt::remote(mine, rank);
}

template <class T>
T atomic_add(const view<T>& array, int64_t i, T value) {
  return array[i].update([value](T x) -> T { return x + value; });
}
template <class T>
T atomic_max(const view<T>& array, int64_t i, T value) {
  return array[i].update([value](T x) -> T { return x < value ? value : x; });
}
template <class T>
T atomic_min(const view<T>& array, int64_t i, T value) {
  return array[i].update([value](T x) -> T { return value < x ? value : x; });
}

template <int N, class T>
Pack<std::remove_const_t<T>, N> load_pack(const view<T>& from, int64_t i) {
  from.check_aligned(i, sizeof(T) * N);
  Pack<std::remove_const_t<T>, N> out;
  for (int k = 0; k < N; ++k) out.values[k] = from[i + k];
  return out;
}
template <int N, class T>
void store_pack(const view<T>& to, int64_t i, const Pack<T, N>& pack) {
  to.check_aligned(i, sizeof(T) * N);
  for (int k = 0; k < N; ++k) to[i + k] = pack.values[k];
}

VF_END
