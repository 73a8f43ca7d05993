#pragma once
typedef unsigned char u8, __u8, uint8_t, bool_t;
typedef signed char s8, __s8, int8_t;
typedef unsigned short u16, __u16, uint16_t;
typedef short s16, __s16, int16_t;
typedef unsigned int u32, __u32, uint32_t;
typedef int s32, __s32, int32_t;
typedef unsigned long long u64, __u64;
typedef long long s64, __s64;
typedef unsigned long uint64_t, uintptr_t, size_t;
typedef long int64_t, ssize_t;
typedef u16 __be16, __le16, __sum16;
typedef u32 __be32, __le32, __wsum;
typedef u64 __be64, __le64, __aligned_u64;
typedef int pid_t;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
