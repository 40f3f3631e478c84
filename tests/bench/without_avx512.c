/* Hides AVX-512 from a program and those it starts, so that all runtimes of a benchmark choose what they would choose on a
 * processor of AVX2:
 *
 *   gcc -O2 -shared -fPIC -o without_avx512.so tests/bench/without_avx512.c
 *   cargo bench --bench runtimes --no-run
 *   LD_PRELOAD=$PWD/without_avx512.so cargo bench --bench runtimes
 *
 * Linux on processors of Intel that can make CPUID fault (cpuid_fault in /proc/cpuinfo), also in virtual machines. The
 * fault is answered with what the instruction says but for AVX-512 and AMX. What was decided before, as by the C library
 * for its copies, stays; programs that answer faults themselves, such as the compiler, end. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static struct sigaction before;

static long cpuid_works(unsigned long works) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, works); }

#define BIT(n) (1u << (n))

static void answer(int signal, siginfo_t *info, void *context)
{
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *instruction = (const uint8_t *)registers[REG_RIP];
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) {
        /* Another fault: it happens again, for whoever waits for it. */
        sigaction(signal, &before, NULL);
        return;
    }
    uint32_t leaf = (uint32_t)registers[REG_RAX], part = (uint32_t)registers[REG_RCX];
    uint32_t a = leaf, b, c = part, d;
    cpuid_works(1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    cpuid_works(0);
    if (leaf == 7 && part == 0) {
        /* F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16,
         * FP16, AMX-TILE, AMX-INT8. */
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    } else if (leaf == 7 && part == 1) {
        /* AVX512-BF16, and AVX-VNNI, which the processors meant here lack. */
        a &= ~(BIT(4) | BIT(5));
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void)
{
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    sigaction(SIGSEGV, &action, &before);
    if (cpuid_works(0) != 0) {
        perror("this processor or system cannot make CPUID fault");
        exit(1);
    }
}
