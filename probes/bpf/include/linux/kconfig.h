/* Our own stand-ins for the few kernel headers that bcc's prelude includes, so that no
 * linux-headers package is needed. Kernel structs are never declared: offsets come from BTF. */
#pragma once
#define CONFIG_BPF_SYSCALL 1
#define BITS_PER_LONG 64
