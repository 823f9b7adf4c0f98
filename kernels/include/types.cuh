// Types of fixed width: NVRTC has no <stdint.h> to include.
#pragma once
#include <cuda_bf16.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __nv_bfloat16 bf16;
typedef __nv_bfloat162 bf16x2;

#define INFINITY_F32 __int_as_float(0x7f800000)
