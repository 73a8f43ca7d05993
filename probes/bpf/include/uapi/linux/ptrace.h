#pragma once
/* struct pt_regs of x86-64 (arch/x86/include/asm/ptrace.h): what a kprobe's context is. */
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
