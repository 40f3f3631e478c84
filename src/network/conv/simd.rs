//! Vectors of f32, one trait for all sets of instructions: AVX-512, AVX2 with FMA, NEON, and a portable one that any
//! processor runs. Kernels are written once, generic over [`Vector`]; [`Isa`] names the set that a program was packed
//! for and is chosen when the program runs. A vector holds as many channels of one pixel as it has lanes.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::float32x4x2_t;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::hint::black_box;
use std::mem::MaybeUninit;

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this program knows, the best last.
    pub(super) const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
    ];

    /// Whether this processor has them.
    pub(super) fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
        }
    }

    /// The best that this processor has, or the one that the variable `MDR_ISA` names (for tests and benchmarks).
    pub(super) fn best() -> Self {
        let named = std::env::var("MDR_ISA").ok();
        let wanted = |isa: &Self| named.as_ref().is_none_or(|name| format!("{isa:?}").eq_ignore_ascii_case(name));
        let here = || Self::ALL.iter().copied().filter(|isa| isa.is_here());
        here().rfind(wanted).or_else(|| here().next_back()).unwrap_or(Self::Portable)
    }

    /// Channels in a vector.
    pub(super) fn lanes(self) -> usize {
        self.sizes().0
    }

    /// Pixels and vectors of channels of the largest tile of sums that stays in the registers.
    pub(super) fn register_tile(self) -> (usize, usize) {
        let (_, pixels, vectors) = self.sizes();
        (pixels, vectors)
    }

    /// Runs a kernel.
    ///
    /// # Safety
    /// The instructions are there ([`is_here`](Self::is_here)), and what the kernel asks for.
    #[inline]
    pub(super) unsafe fn run(self, kernel: impl Kernel) {
        /// Where it is called, the stack begins with a line of the cache. Compilers leave it aligned to 16 bytes, and then
        /// vectors that registers do not hold lie in two lines.
        #[inline(always)]
        fn align_stack() {
            #[repr(align(64))]
            struct Line;
            black_box(&MaybeUninit::<Line>::uninit());
        }

        #[inline(never)]
        unsafe fn usual<V: Vector>(kernel: impl Kernel) {
            align_stack();
            // SAFETY: as the caller promises.
            unsafe { kernel.run::<V>() }
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        #[inline(never)]
        unsafe fn avx2(kernel: impl Kernel) {
            align_stack();
            // SAFETY: as the caller promises.
            unsafe { kernel.run::<Avx2>() }
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f")]
        #[inline(never)]
        unsafe fn avx512(kernel: impl Kernel) {
            align_stack();
            // SAFETY: as the caller promises.
            unsafe { kernel.run::<Avx512>() }
        }

        // SAFETY: as the caller promises.
        unsafe {
            match self {
                Self::Portable => usual::<Portable>(kernel),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => usual::<Neon>(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512(kernel),
            }
        }
    }

    fn sizes(self) -> (usize, usize, usize) {
        fn of<V: Vector>() -> (usize, usize, usize) {
            (V::LANES, V::PIXELS, VECTORS)
        }
        match self {
            Self::Portable => of::<Portable>(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => of::<Neon>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => of::<Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => of::<Avx512>(),
        }
    }
}

/// Vectors of output channels that share a register tile: each input sample that is spread over a vector feeds so many
/// multiplications.
pub(super) const VECTORS: usize = 2;

/// Vectors whose lanes are summed up together.
pub(super) const SUMS: usize = 8;

/// Has a processor fetch the cache line of this sample, which need not be there at all, into its first cache. Where
/// there are no instructions for it, nothing happens.
#[inline(always)]
pub(super) fn fetch(sample: *const f32) {
    // SAFETY: part of every x86-64; what is only fetched is not accessed.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(sample.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = sample;
}

/// Work that is compiled for every set of instructions, each time as a function of its own: where many loops are in one,
/// compilers choose the registers of each by what the others need.
pub(super) trait Kernel {
    /// It and all that it calls are to be `#[inline(always)]`, or they are compiled without the instructions.
    ///
    /// # Safety
    /// The instructions are there, and what the kernel's fields are promised to be is so.
    unsafe fn run<V: Vector>(self);
}

/// Several samples in a row.
///
/// # Safety
/// The instructions must be there; pointers are to `LANES` samples, aligned as f32.
pub(super) trait Vector: Copy {
    const LANES: usize;
    /// Pixels of a register tile: with [`VECTORS`] sums of each, the vectors of weights and one input fill the
    /// registers.
    const PIXELS: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn minus(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self;
    /// `sum - self * factor`.
    unsafe fn subtracted_times(self, factor: Self, sum: Self) -> Self;
    /// The larger of each two; where `self` is NaN, NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of each two; where `self` is NaN, NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// The sum of the lanes of each: less than half the work of one after the other.
    unsafe fn sums(all: [Self; SUMS]) -> [f32; SUMS];
}

/// Eight samples, which compilers split over whatever vectors a processor has.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(mut self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        for i in 0..8 {
            self.0[i] = f(self.0[i], other.0[i]);
        }
        self
    }
}

impl Vector for Portable {
    const LANES: usize = 8;
    const PIXELS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller points to eight samples; the alignment of f32 is enough.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as for `load`.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn times_plus(self, factor: Self, sum: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(sum, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn subtracted_times(self, factor: Self, sum: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(sum, |a, b| b - a)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { b } else { a })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { b } else { a })
    }

    #[inline(always)]
    unsafe fn sums(all: [Self; SUMS]) -> [f32; SUMS] {
        let mut sums = [0.0; SUMS];
        for i in 0..SUMS {
            let [a, b, c, d, e, f, g, h] = all[i].0;
            sums[i] = ((a + e) + (c + g)) + ((b + f) + (d + h));
        }
        sums
    }
}

/// Implements [`Vector`] by intrinsics of the same names; the reason why each call is sound is the trait's contract.
macro_rules! vector {
    ($name:ident, $lanes:literal, $pixels:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident,
     $fma:ident, $fnma:ident, $max:ident, $min:ident, $sums:ident) => {
        impl Vector for $name {
            const LANES: usize = $lanes;
            const PIXELS: usize = $pixels;

            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $splat(value) })
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the instructions are there, and so are the samples.
                Self(unsafe { $load(from) })
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the instructions are there, and so is the room.
                unsafe { $store(to, self.0) }
            }

            #[inline(always)]
            unsafe fn plus(self, other: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $add(self.0, other.0) })
            }

            #[inline(always)]
            unsafe fn minus(self, other: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $sub(self.0, other.0) })
            }

            #[inline(always)]
            unsafe fn times_plus(self, factor: Self, sum: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $fma(self.0, factor.0, sum.0) })
            }

            #[inline(always)]
            unsafe fn subtracted_times(self, factor: Self, sum: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $fnma(self.0, factor.0, sum.0) })
            }

            // Of a NaN and a number, Intel's minimum and maximum give the second; ARM's give NaN.
            #[inline(always)]
            unsafe fn max(self, other: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $max(other.0, self.0) })
            }

            #[inline(always)]
            unsafe fn min(self, other: Self) -> Self {
                // SAFETY: the instructions are there.
                Self(unsafe { $min(other.0, self.0) })
            }

            #[inline(always)]
            unsafe fn sums(all: [Self; SUMS]) -> [f32; SUMS] {
                // SAFETY: the instructions are there.
                unsafe { $sums(all) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

#[cfg(target_arch = "x86_64")]
vector!(
    Avx2,
    8,
    6,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_fmadd_ps,
    _mm256_fnmadd_ps,
    _mm256_max_ps,
    _mm256_min_ps,
    sums_of_8
);

/// Sums of neighbours, three times; the halves of a register are added last.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn sums_of_8([a, b, c, d, e, f, g, h]: [Avx2; SUMS]) -> [f32; SUMS] {
    // SAFETY: the caller has AVX2; the result has room for eight samples.
    unsafe {
        let [ab, cd] = [_mm256_hadd_ps(a.0, b.0), _mm256_hadd_ps(c.0, d.0)];
        let [ef, gh] = [_mm256_hadd_ps(e.0, f.0), _mm256_hadd_ps(g.0, h.0)];
        let [first, last] = [_mm256_hadd_ps(ab, cd), _mm256_hadd_ps(ef, gh)];
        let low = _mm256_permute2f128_ps(first, last, 0x20);
        let high = _mm256_permute2f128_ps(first, last, 0x31);
        let mut sums = [0.0; SUMS];
        _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_add_ps(low, high));
        sums
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
vector!(
    Avx512,
    16,
    14,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_fmadd_ps,
    _mm512_fnmadd_ps,
    _mm512_max_ps,
    _mm512_min_ps,
    sums_of_16
);

/// Quarters of registers are added until each is what is left of one vector, then what lies in them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn sums_of_16([a, b, c, d, e, f, g, h]: [Avx512; SUMS]) -> [f32; SUMS] {
    // Of both vectors, quarters 0 and 1, 2 and 3, 0 and 2, 1 and 3.
    const LOW: i32 = 0b01_00_01_00;
    const HIGH: i32 = 0b11_10_11_10;
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    macro_rules! added {
        ($a:expr, $b:expr, $some:ident, $others:ident) => {
            _mm512_add_ps(_mm512_shuffle_f32x4::<$some>($a, $b), _mm512_shuffle_f32x4::<$others>($a, $b))
        };
    }
    // SAFETY: the caller has AVX-512; the result has room for eight samples.
    unsafe {
        // Quarters: a0 + a2, a1 + a3, b0 + b2, b1 + b3; and so on.
        let [ab, cd] = [added!(a.0, b.0, LOW, HIGH), added!(c.0, d.0, LOW, HIGH)];
        let [ef, gh] = [added!(e.0, f.0, LOW, HIGH), added!(g.0, h.0, LOW, HIGH)];
        // Quarters: what is left of a, b, c, d; of e, f, g, h.
        let [first, last] = [added!(ab, cd, EVEN, ODD), added!(ef, gh, EVEN, ODD)];
        // In each quarter: two of a, two of e by turns; then one of each.
        let twos = _mm512_add_ps(_mm512_unpacklo_ps(first, last), _mm512_unpackhi_ps(first, last));
        let ones = _mm512_add_ps(twos, _mm512_permute_ps(twos, 0b01_00_11_10));
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
        let ordered = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, ones));
        let mut sums = [0.0; SUMS];
        _mm256_storeu_ps(sums.as_mut_ptr(), ordered);
        sums
    }
}

/// Two registers of four: as many channels as AVX2 has.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub(super) struct Neon(float32x4x2_t);

#[cfg(target_arch = "aarch64")]
mod neon {
    //! The same instruction for each of the two halves, but `sums`.
    use super::{Neon, SUMS};
    use std::arch::aarch64::*;

    #[inline(always)]
    pub unsafe fn sums(all: [Neon; SUMS]) -> [f32; SUMS] {
        // SAFETY: the caller has NEON; the result has room for eight samples.
        unsafe {
            let [a, b, c, d, e, f, g, h] = all;
            macro_rules! pair {
                ($a:ident, $b:ident) => {
                    vpaddq_f32(vaddq_f32($a.0.0, $a.0.1), vaddq_f32($b.0.0, $b.0.1))
                };
            }
            let first = vpaddq_f32(pair!(a, b), pair!(c, d));
            let last = vpaddq_f32(pair!(e, f), pair!(g, h));
            let mut sums = [0.0; SUMS];
            vst1q_f32(sums.as_mut_ptr(), first);
            vst1q_f32(sums.as_mut_ptr().add(4), last);
            sums
        }
    }

    #[inline(always)]
    pub unsafe fn splat(value: f32) -> float32x4x2_t {
        // SAFETY: the caller has NEON.
        unsafe { float32x4x2_t(vdupq_n_f32(value), vdupq_n_f32(value)) }
    }

    #[inline(always)]
    pub unsafe fn load(from: *const f32) -> float32x4x2_t {
        // SAFETY: the caller has NEON and eight samples.
        unsafe { float32x4x2_t(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }

    #[inline(always)]
    pub unsafe fn store(to: *mut f32, value: float32x4x2_t) {
        // SAFETY: the caller has NEON and room for eight samples.
        unsafe {
            vst1q_f32(to, value.0);
            vst1q_f32(to.add(4), value.1);
        }
    }

    macro_rules! halves {
        ($name:ident, $intrinsic:ident) => {
            #[inline(always)]
            pub unsafe fn $name(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
                // SAFETY: the caller has NEON.
                unsafe { float32x4x2_t($intrinsic(a.0, b.0), $intrinsic(a.1, b.1)) }
            }
        };
    }
    halves!(add, vaddq_f32);
    halves!(sub, vsubq_f32);
    halves!(max, vmaxq_f32);
    halves!(min, vminq_f32);

    #[inline(always)]
    pub unsafe fn fma(a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: the caller has NEON.
        unsafe { float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }

    #[inline(always)]
    pub unsafe fn fnma(a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: the caller has NEON.
        unsafe { float32x4x2_t(vfmsq_f32(c.0, a.0, b.0), vfmsq_f32(c.1, a.1, b.1)) }
    }
}

#[cfg(target_arch = "aarch64")]
use neon::{add, fma, fnma, load, max, min, splat, store, sub, sums};
#[cfg(target_arch = "aarch64")]
vector!(Neon, 8, 6, splat, load, store, add, sub, fma, fnma, max, min, sums);
