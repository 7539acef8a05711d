"""GPU kernels in Triton, one file per op; installed as varfast.triton_kernels."""
