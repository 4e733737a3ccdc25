// The functions that instrumented code calls before each access: they add the size and the place of the call.
typedef unsigned long usize;

extern "C" {
void emu_read(usize address, usize size, void *from);
void emu_write(usize address, usize size, void *from);
void emu_range(usize address, usize size, int write, void *from);

#define HOOKS(n)                                                                                          \
  void __tsan_read##n(usize p) { emu_read(p, n, __builtin_return_address(0)); }                           \
  void __tsan_write##n(usize p) { emu_write(p, n, __builtin_return_address(0)); }                         \
  void __tsan_unaligned_read##n(usize p) { emu_read(p, n, __builtin_return_address(0)); }                 \
  void __tsan_unaligned_write##n(usize p) { emu_write(p, n, __builtin_return_address(0)); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(usize p, usize n) { emu_range(p, n, 0, __builtin_return_address(0)); }
void __tsan_write_range(usize p, usize n) { emu_range(p, n, 1, __builtin_return_address(0)); }
void __tsan_init() {}
}
