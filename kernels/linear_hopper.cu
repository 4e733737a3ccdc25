// Linear layers, and 1x1 convolutions with stride 1, on Hopper, in bf16, for depth and outputs that are multiples of eight (16 bytes): the
// product of product_tma.cuh, compiled with each epilogue that the networks use. The same bits as conv_hopper.
//
// Floor: bytes and operations as in conv.cu. A step of 128 x 256 x 64 takes 1024 tensor-core cycles. Meanwhile TMA writes 48 KB to shared
// memory and wgmma reads 80 KB: 128 bytes per cycle, all that shared memory has.
#include "product_tma.cuh"

KERNEL void __launch_bounds__(384, 1) linear_256(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<256, NOTHING, false, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_256_more(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<256, NOTHING, true, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_256_relu(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<256, RELU, false, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_256_relu_more(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<256, RELU, true, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_256_gelu(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<256, GELU, false, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_256_gelu_keep(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<256, GELU, false, true>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_128(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<128, NOTHING, false, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_128_more(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<128, NOTHING, true, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_128_relu(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<128, RELU, false, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_128_relu_more(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<128, RELU, true, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_128_gelu(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<128, GELU, false, false>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}

KERNEL void __launch_bounds__(384, 1) linear_128_gelu_keep(T *y, T *pre_activation, GRID_CONSTANT TensorMap x, GRID_CONSTANT TensorMap w,
    const float *shift, const T *more, int rows, int depth, int outputs) {
  product_tma<128, GELU, false, true>(x, w, {y, pre_activation, shift, more, rows, outputs}, depth);
}
